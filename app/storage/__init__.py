"""Redis, SQL and the object store: clients and tables, no decisions."""
