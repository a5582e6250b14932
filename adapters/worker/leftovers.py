"""What jobs leave on this disk: a folder each, with the token that it was worked on under, until nobody needs it.

A folder holds a tenant's files. It stays while its job is to go on here: given back, paused, or cut off from the
gateway. It goes as soon as the job is over or another trainer's, which is asked at the start and between jobs.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import structlog

from adapters.gateway import Claim, Disagreement, GatewayAway, JobOver, LeaseLost, TrainingApi

_log = structlog.get_logger(__name__)
_MARK = "claim.json"


class Mark(msgspec.Struct, frozen=True):
    """Whose folder this is: the job, and the newest token that it was claimed under here."""

    job: str
    token: int


class Leftovers:
    """The folders of one trainer's jobs, in its work folder."""

    def __init__(self, api: TrainingApi, work: Path) -> None:
        self._api = api
        self._work = work

    def mark(self, claim: Claim) -> None:
        """Write down that the job is worked on here, before anything of it is on the disk."""
        folder = self._work / claim.job.id
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{_MARK}.tmp"
        temporary.write_bytes(msgspec.json.encode(Mark(claim.job.id, claim.lease.token)))
        temporary.replace(folder / _MARK)

    async def tidy(self) -> None:
        """Remove what is over or another's; a gateway that is away is asked the next time."""
        for path in await asyncio.to_thread(lambda: sorted(self._work.glob(f"*/{_MARK}"))):
            if (mark := _read(path)) is None:
                continue
            try:
                await self._api.is_resting(mark.job, mark.token)
            except (JobOver, LeaseLost):
                await self.remove(mark.job)
            except GatewayAway as exc:
                _log.warning("gateway_away", job=mark.job, reason=str(exc))
                return
            except Disagreement as exc:
                _log.warning("leftover_not_judged", job=mark.job, reason=str(exc))

    async def remove(self, job: str) -> None:
        """Remove a job's folder."""
        try:
            await asyncio.to_thread(shutil.rmtree, self._work / job)
        except OSError as exc:
            _log.error("folder_not_removed", job=job, reason=exc.strerror)


def _read(path: Path) -> Mark | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        _log.warning("leftover_not_judged", job=path.parent.name, reason=f"{path.name} is damaged")
        return None
