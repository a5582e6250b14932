"""Tunegate's plugin for vLLM: loaded by vLLM in each of its processes, so `register` may run more than once."""

from __future__ import annotations


def register() -> None:
    """Give workers a method that tells their residency, and the API process a resolver of content addresses."""
    from tunegate_vllm.residency import install
    from tunegate_vllm.resolver import install_resolver

    install()
    install_resolver()
