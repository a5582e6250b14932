"""Three paths beside vLLM's own: what is resident, a removal that frees memory, a pin.

They stand under /v1, so vLLM's `--api-key` guards them like the rest. Numbers are the engine's, names are the server's:
what has a number and no name any more is listed as `#number`.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import State

from tunegate_vllm.residency import METHOD
from tunegate_vllm.resolver import store

router = APIRouter(prefix="/v1/tunegate")


@router.get("/residency")
async def residency(request: Request) -> JSONResponse:
    """Names in GPU slots and in host memory, least recently used first."""
    state = request.app.state.tunegate
    answers = await state["engine"].collective_rpc(METHOD)
    slots, host = answers[0]  # every worker of a replica holds the same adapters
    names = {lora.lora_int_id: name for name, lora in state["models"].lora_requests.items()}
    return JSONResponse({"gpu": [_name(n, names) for n in slots], "host": [_name(n, names) for n in host]})


@router.post("/remove")
async def remove(request: Request) -> JSONResponse:
    """Take a name off and free its weights; 409 while a call runs under it.

    Race removed: a name that is taken off under a running call and then loaded again has two numbers, and vLLM 0.32's
    engine dies of a step with both. The server itself knows what runs; gateways hear of one another's calls later.
    """
    state, name = request.app.state.tunegate, await _asked(request)
    models, engine = state["models"], state["engine"]
    if name not in models.lora_requests:
        return _missing(name)
    async with models.lora_resolver_lock[name]:  # no load of this name meanwhile
        if any(running.lora_name == name for running in engine.output_processor.request_states.values()):
            return _error(409, f"The lora adapter '{name}' is in use; try again when its calls have ended.", "Conflict")
        lora = models.lora_requests.pop(name, None)
        if lora is None:
            return _missing(name)
        freed = await engine.remove_lora(lora.lora_int_id)
    return JSONResponse({"removed": name, "freed": bool(freed)})


@router.post("/pin")
async def pin(request: Request) -> JSONResponse:
    """Keep an adapter in its slot; vLLM cannot take a pin back but by removing the adapter."""
    state, name = request.app.state.tunegate, await _asked(request)
    lora = state["models"].lora_requests.get(name)
    if lora is None:
        return _missing(name)
    await state["engine"].add_lora(lora)  # the server may know the name of an adapter that it holds no more
    return JSONResponse({"pinned": name, "done": bool(await state["engine"].pin_lora(lora.lora_int_id))})


async def _asked(request: Request) -> str:
    body = await request.json()
    return str(body.get("lora_name", "")) if isinstance(body, dict) else ""


def _missing(name: str) -> JSONResponse:
    return _error(404, f"The lora adapter '{name[:200]}' cannot be found.", "NotFoundError")


def _error(status: int, message: str, kind: str) -> JSONResponse:
    error = {"message": message, "type": kind, "code": status, "param": "lora_name"}
    return JSONResponse({"error": error}, status_code=status)


def _name(number: int, names: dict[int, str]) -> str:
    return names.get(number, f"#{number}")


class Endpoints:
    """vLLM's endpoint-plugin contract."""

    name = "tunegate"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the paths."""
        app.include_router(router)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Keep what the paths need."""
        del args
        models = state.openai_serving_models
        state.tunegate = {"engine": engine_client, "models": models}
        found = store()
        if found is not None:
            found.keep(lambda: frozenset(models.lora_requests))
