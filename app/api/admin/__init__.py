"""The admin API `/admin/v1`: tenants, teams, keys, limits, routes, adapters, usage."""
