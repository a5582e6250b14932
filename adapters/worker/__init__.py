"""The trainer: an always-on worker that claims jobs over the training API, trains, and registers what it made."""
