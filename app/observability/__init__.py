"""Metrics, traces and logs; never prompt text, never secrets."""
