"""Errors as HTTP answers, in vLLM's body `{"error": {"message", "type", "param", "code"}}`.

Messages are rid of file paths as vLLM does it, so that clients see the same text from both.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from app.engine.errors import EngineError, RequestError

_SYSTEM_PATH = re.compile(r"/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:/[\w.\-]+)+")
_FILE_PATH = re.compile(r"(?:/[\w\-]+)+/[\w\-]+\.\w+")
_SHOWN_ERRORS = 10
_SHOWN_CHARACTERS = 200
_UNION_BRANCHES = frozenset(
    {
        "TokenizeTextBody",
        "TokenizeChatBody",
        "str",
        "int",
        "float",
        "bool",
        "list",
        "dict",
        "nullable",
        "chain",
        "default",
    }
)


def error_body(exc: EngineError) -> dict[str, Any]:
    """The body for an error of the tree; anything but a refusal is an internal error."""
    if isinstance(exc, RequestError):
        return _body(exc.message, exc.kind, exc.param, exc.status)
    return _body(str(exc), "InternalServerError", None, HTTPStatus.INTERNAL_SERVER_ERROR)


def install(app: FastAPI) -> None:
    """Register the handlers; unknown routes and methods keep FastAPI's `{"detail": ...}`, as in vLLM."""
    app.add_exception_handler(EngineError, _engine_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _engine_error(request: Request, exc: Exception) -> JSONResponse:  # noqa: ARG001  the framework's signature
    body = error_body(exc if isinstance(exc, EngineError) else EngineError(str(exc)))
    return JSONResponse(body, status_code=body["error"]["code"])


async def _validation_error(request: Request, exc: Exception) -> JSONResponse:  # noqa: ARG001  as above
    errors: Sequence[Any] = exc.errors() if isinstance(exc, RequestValidationError) else []
    word = "error" if len(errors) == 1 else "errors"
    lines = [f"  {_line(error)}" for error in errors[:_SHOWN_ERRORS]]
    if len(errors) > _SHOWN_ERRORS:
        lines.append(f"  ...and {len(errors) - _SHOWN_ERRORS} more {word}")
    message = "\n".join([f"{len(errors)} validation {word}:", *lines])
    first = errors[0] if errors else None
    param = _place(first["loc"]) if isinstance(first, Mapping) else None
    return JSONResponse(_body(message, HTTPStatus.BAD_REQUEST.phrase, param, HTTPStatus.BAD_REQUEST), status_code=400)


def _body(message: str, kind: str, param: str | None, code: int) -> dict[str, Any]:
    whole = message.encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be sent
    text = _FILE_PATH.sub("<path>", _SYSTEM_PATH.sub("<path>", whole)).strip()
    return {"error": {"message": text, "type": kind, "param": param, "code": int(code)}}


def _line(error: object) -> str:
    """One validation error in a line, its place dotted and its input cut short."""
    if not isinstance(error, Mapping):
        return str(error)
    shown = {key: error[key] for key in ("type", "loc", "msg", "input", "ctx") if key in error}
    shown["loc"] = _place(error["loc"])
    if "input" in shown:
        shown["input"] = _short(shown["input"])
    return str(shown)


def _place(loc: Sequence[str | int]) -> str:
    """A dotted path without the names pydantic gives to the branches of a union."""
    parts = [str(part) for part in loc]
    return ".".join(part for part in parts if part not in _UNION_BRANCHES and not set("[](){}") & set(part))


def _short(value: object) -> str:
    if isinstance(value, (list, tuple, dict)):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...[truncated]"
