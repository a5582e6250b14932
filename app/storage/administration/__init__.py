"""What administrators change: tenants, teams, keys, routes, adapters. A change is one transaction with a revision."""
