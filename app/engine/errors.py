"""The engine's errors.

EngineError
├── RequestError        the caller's fault or a refusal: status, type, message and parameter of vLLM's error body
├── AdapterError        an adapter that cannot be loaded
│   ├── AdapterMissing  no adapter at that path (404)
│   └── AdapterRefused  an adapter vLLM would not serve, or a broken file (500)
├── CallFailed          a call into the loop that failed otherwise (500 with its text)
└── EngineDead          the loop has stopped; nothing is answered any more (500, /health 503)
"""

from http import HTTPStatus


class EngineError(Exception):
    """Root of the tree."""


class RequestError(EngineError):
    """A refusal with all that its body needs; `status` doubles as the body's code, as in vLLM."""

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        kind: str = "BadRequestError",
        param: str | None = None,
    ) -> None:
        """Keep the four parts of the body."""
        super().__init__(message)
        self.message = message
        self.status = int(status)
        self.kind = kind
        self.param = param


def bad_parameter(message: str, param: str, value: object | None = None) -> RequestError:
    """Build vLLM's 400 for one field; it repeats the field and its value in the text."""
    shown = f"(parameter={param})" if value is None else f"(parameter={param}, value={value})"
    return RequestError(f"{message} {shown}", param=param)


class AdapterError(EngineError):
    """An adapter that cannot be loaded."""


class AdapterMissing(AdapterError):
    """No adapter configuration at the path."""

    def __init__(self, name: str, path: str) -> None:
        """Say it in vLLM's words, by which clients classify it."""
        super().__init__(f"Loading lora {name} failed: No adapter found for {path}")


class AdapterRefused(AdapterError):
    """An adapter outside the servable rules, or a file that does not parse."""


class CallFailed(EngineError):
    """An error of no other kind inside a function that the loop was asked to run; the loop goes on."""


class EngineDead(EngineError):
    """The engine loop ended on an error."""

    def __init__(self) -> None:
        """Carry vLLM's text."""
        super().__init__("EngineCore encountered an issue. See stack trace (above) for the root cause.")
