"""Tunegate: an inference gateway for fine-tuned models."""
