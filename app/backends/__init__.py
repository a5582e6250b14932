"""Sending a call upstream: providers, vLLM, relay of streams, failover before the first byte."""
