"""The adapters that are registered by name: what /v1/models lists, which is not what is resident.

One lock per name in flight makes check-then-load one step, so two loads of one name give one success and one refusal;
a lock that nobody holds or awaits is gone, so names that were never loaded leave nothing behind.
Unloading forgets the name only; the worker keeps its copies until they age out, and requests in flight go on.
"""

import asyncio
from http import HTTPStatus
from itertools import count
from weakref import WeakValueDictionary

from app.engine.engine import Engine
from app.engine.errors import AdapterError, AdapterMissing, CallFailed, EngineDead, RequestError
from app.engine.lora import LoraRequest


class AdapterRegistry:
    """Names to adapters, in the order they were registered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._base = engine.options.served_model_name
        self._requests: dict[str, LoraRequest] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ids = count(1)

    def listed(self) -> list[LoraRequest]:
        """All registered adapters."""
        return list(self._requests.values())

    def resolve(self, model: str | None) -> LoraRequest | None:
        """The adapter a request names, None for the base model (also for no name at all); 404 for any other name."""
        if not model or model == self._base:
            return None
        found = self._requests.get(model)
        if found is None:
            raise RequestError(
                f"The model `{model}` does not exist. Valid aliases: {self._base}.",
                status=HTTPStatus.NOT_FOUND,
                kind="NotFoundError",
                param="model",
            )
        return found

    async def load(self, name: str, path: str, *, in_place: bool = False) -> str:
        """Register an adapter after the engine has read it; returns vLLM's sentence."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            self._check(name, path, in_place=in_place)
            known = self._requests.get(name)
            request = LoraRequest(next(self._ids) if known is None else known.id, name, path)
            await self._read(request, reload=in_place)
            self._requests[name] = request
        return f"Success: LoRA adapter '{name}' added successfully."

    async def unload(self, name: str) -> str:
        """Forget a name; returns vLLM's sentence."""
        if not name:
            raise _invalid("'lora_name' needs to be provided to unload a LoRA adapter.")
        async with self._locks.setdefault(name, asyncio.Lock()):
            if self._requests.pop(name, None) is None:
                text = f"The lora adapter '{name}' cannot be found."
                raise RequestError(text, status=HTTPStatus.NOT_FOUND, kind="NotFoundError")
        return f"Success: LoRA adapter '{name}' removed successfully."

    def _check(self, name: str, path: str, *, in_place: bool) -> None:
        if not name or not path:
            raise _invalid("Both 'lora_name' and 'lora_path' must be provided.")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise _invalid("'lora_name' must be text; it holds half a surrogate pair.")
        if name == self._base:
            raise _invalid(f"The lora adapter '{name}' conflicts with a served base model.")
        if not in_place and name in self._requests:
            raise _invalid(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place,"
                " set 'load_inplace' to True."
            )

    async def _read(self, request: LoraRequest, *, reload: bool) -> None:
        """Have the engine read it; everything but a missing folder is vLLM's 500 with the worker's words."""
        try:
            await self._engine.load(request, reload=reload)
        except AdapterMissing as exc:
            raise RequestError(str(exc), status=HTTPStatus.NOT_FOUND, kind="NotFoundError") from exc
        except (AdapterError, CallFailed) as exc:
            text = (
                f"Call to add_lora method failed: Worker failed with error '{exc}', please check the stack trace above"
                " for the root cause"
            )
            raise _internal(text) from exc
        except EngineDead as exc:
            raise _internal(str(exc)) from exc


def _invalid(message: str) -> RequestError:
    return RequestError(message, kind="InvalidUserInput")


def _internal(message: str) -> RequestError:
    return RequestError(message, status=HTTPStatus.INTERNAL_SERVER_ERROR, kind="InternalServerError")
