"""Making the tiny base model and the three tenants' adapters that ship with the project."""
