"""Tenants' files and fine-tuning jobs in SQL. The tenant is part of every query; what is another's is not there."""
