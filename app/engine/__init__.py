"""The reference engine: a small CPU server with vLLM's HTTP contract over a real tiny Llama and real PEFT adapters.

Importing this package imports nothing else; `options` and `main` are light, the rest pulls in numpy and FastAPI.
"""
