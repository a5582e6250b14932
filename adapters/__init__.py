"""The training sidecar: a tenant's own data in, a proved adapter out."""
