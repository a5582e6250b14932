"""What the training API's answers mean when they are not success.

A status alone proves nothing: an ingress or a proxy in front of the gateway says 404 or 409 as well. What ends work or
a job is believed only with the gateway's envelope and the very code that it sends for that.
"""

from __future__ import annotations

import msgspec

from adapters.errors import SidecarError


class GatewayError(SidecarError):
    """The training API did not do what was asked."""


class GatewayAway(GatewayError):
    """No answer of the gateway, as long as the lease could be alive."""


class NotTaken(GatewayAway):
    """The gateway is there, keeps the lease, and has not done this one thing for too long."""


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


_OTHERS_SAY = frozenset({401, 403, 404, 407, 408, 409, 421, 422, 423, 425})  # and it passes, or is set right


def error_of(status: int, body: bytes) -> GatewayError:
    """What an error answer means for the trainer."""
    if status == 429 or status >= 500:
        return GatewayAway(f"the gateway answered {status}")
    said = _said(body)
    if said is None:
        message = f"the answer {status} is not the training API's; is this the gateway's address?"
        return GatewayAway(message) if status < 400 or status in _OTHERS_SAY else Disagreement(message)
    code, message = said
    match (status, code):
        case (401, "invalid_api_key"):
            return TrainerRefused("the gateway does not accept the trainer secret; give both sides the same one")
        case (404, "fine_tune_not_found") | (409, "job_finished"):
            return JobOver(message)
        case (409, "lease_lost"):
            return LeaseLost(message)
        case (422, "digest_mismatch"):
            return Damaged(message)
    return Disagreement(f"the gateway answered {status}: {message}")


def _said(body: bytes) -> tuple[str, str] | None:
    """Code and message of OpenAI's envelope; None for anything else."""
    try:
        error = msgspec.json.decode(body)["error"]
        return str(error["code"]), str(error["message"])
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError):
        return None
