"""Whether a call may start: limits and budgets, reserved and settled in one atomic script each."""
