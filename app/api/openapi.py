"""OpenAPI for the plain ASGI endpoints, which FastAPI cannot see: enough for a client to find and call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.types import Operation

REQUIRED = {Operation.CHAT: "messages", Operation.COMPLETIONS: "prompt", Operation.EMBEDDINGS: "input"}
ERRORS = {"400": "invalid request", "401": "unknown key", "404": "unknown model", "429": "limit or budget reached"}


def describe(app: FastAPI, paths: Mapping[str, Operation]) -> None:
    """Let `/openapi.json` name the inference paths too."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            made["paths"] |= {path: {"post": _operation(operation)} for path, operation in paths.items()}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def _operation(operation: Operation) -> dict[str, Any]:
    field = REQUIRED[operation]
    body = {
        "type": "object",
        "required": ["model", field],
        "properties": {"model": {"type": "string", "description": "A route's name."}, field: {}},
        "additionalProperties": True,
    }
    answers = {"200": {"description": "The answer, in OpenAI's shape; a stream of events when `stream` is true."}}
    answers |= {status: {"description": says} for status, says in ERRORS.items()}
    return {
        "tags": ["inference"],
        "operationId": operation.value,
        "summary": f"OpenAI-compatible {operation.value}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": answers,
    }
