"""Who is calling: API keys against the policy snapshot. Fails closed: 401 only on proof, 503 when unsure."""
