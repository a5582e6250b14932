"""What the training API's answers mean when they are not success."""

from __future__ import annotations

import msgspec

from adapters.errors import SidecarError


class GatewayError(SidecarError):
    """The training API did not do what was asked."""


class GatewayAway(GatewayError):
    """No answer, several times in a row."""


class TrainerRefused(GatewayError):
    """The trainer secret is wrong."""


class LeaseLost(GatewayError):
    """Somebody else has the job: stop at once."""


class JobOver(GatewayError):
    """The job was finished, cancelled or deleted: stop at once."""


class Disagreement(GatewayError):
    """The gateway does not accept what was sent; sending it again cannot help."""


class Damaged(GatewayError):
    """The bytes that arrived are not the bytes that were sent."""


def error_of(status: int, body: bytes) -> GatewayError:
    """What an error answer means for the trainer."""
    code, message = _said(body)
    if status in (401, 403):
        return TrainerRefused("the gateway does not accept the trainer secret; give both sides the same one")
    if status == 404 or (status == 409 and code == "job_finished"):
        return JobOver(message)
    if status == 409:
        return LeaseLost(message)
    if status == 422:
        return Damaged(message)
    if status == 429 or status >= 500:
        return GatewayAway(f"the gateway answered {status}")
    return Disagreement(f"the gateway answered {status}: {message}")


def _said(body: bytes) -> tuple[str, str]:
    try:
        error = msgspec.json.decode(body)["error"]
        return str(error.get("code")), str(error["message"])
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return "", "an answer that is not the training API's; is this the gateway's address?"
