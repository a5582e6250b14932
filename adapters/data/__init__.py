"""From raw conversations to a dataset version: fetch, clean, redact, validate, de-duplicate, split, write."""
