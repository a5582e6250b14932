"""Which variant of a route a call takes, and which targets it may be sent to."""
