"""Which replica serves an adapter, and making sure that the adapter is there."""
