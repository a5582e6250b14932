"""Tunegate's plugin for vLLM: loaded by vLLM in each of its processes, so `register` may run more than once."""

from __future__ import annotations


def register() -> None:
    """Give workers a method that tells their residency, and the API process a resolver of content addresses."""
    from tunegate_vllm.residency import install  # noqa: PLC0415 - vLLM is imported when it asks, not before
    from tunegate_vllm.resolver import install_resolver  # noqa: PLC0415 - as above

    install()
    install_resolver()
