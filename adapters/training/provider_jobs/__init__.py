"""Fine-tuning at an OpenAI-compatible provider: estimate, upload, start, follow, result, expiry."""
