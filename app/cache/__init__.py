"""Complete answers kept within one tenant and one scope: exact, then semantic."""
