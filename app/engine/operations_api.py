"""Everything but completions: models, adapters, tokenizer, health, metrics, and the engine's own test endpoints."""

import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.engine.protocol import DetokenizeBody, LoadBody, TokenizeChatBody, TokenizeTextBody, UnloadBody
from app.engine.requests import message_dicts
from app.engine.service import Service, service_of

router = APIRouter()
runtime_lora_router = APIRouter()
VERSION = "0.32.0+tunegate.reference"


@router.get("/health")
async def health(request: Request) -> Response:
    """200 with no body while the loop lives, 503 after."""
    service = service_of(request)
    bad = service.engine.core.dead or service.faults.faults.unhealthy
    return Response(status_code=503 if bad else 200)


@router.get("/version")
async def version() -> JSONResponse:
    """The vLLM version whose contract this engine follows."""
    return JSONResponse({"version": VERSION})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    text = service_of(request).engine.metrics.render()
    return Response(text, media_type="text/plain; version=1.0.0; charset=utf-8")


@router.get("/v1/models")
async def models(request: Request) -> JSONResponse:
    """The base model, then every registered adapter. vLLM has no route for a single model."""
    service = service_of(request)
    options = service.engine.options
    cards = [_card(options.served_model_name, str(options.model), max_model_len=service.engine.max_len)]
    base = options.served_model_name
    cards += [_card(lora.name, lora.path, parent=base) for lora in service.adapters.listed()]
    return JSONResponse({"object": "list", "data": cards})


def _card(name: str, root: str, *, parent: str | None = None, max_model_len: int | None = None) -> dict[str, Any]:
    """One model card; `created` is the time of the call and so no version."""
    now = int(time.time())
    permission = {
        "id": f"modelperm-{uuid.uuid4().hex[:16]}",
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [permission],
    }


@runtime_lora_router.post("/v1/load_lora_adapter")
async def load_lora_adapter(body: LoadBody, request: Request) -> Response:
    """Read and register an adapter; plain text without a content type, as in vLLM."""
    adapters = service_of(request).adapters
    return Response(await adapters.load(body.lora_name, body.lora_path, in_place=body.load_inplace))


@runtime_lora_router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(body: UnloadBody, request: Request) -> Response:
    """Forget an adapter's name."""
    return Response(await service_of(request).adapters.unload(body.lora_name))


@router.post("/tokenize")
async def tokenize(body: TokenizeTextBody | TokenizeChatBody, request: Request) -> JSONResponse:
    """Count and list the tokens of a text or of a conversation."""
    service = service_of(request)
    service.adapters.resolve(body.model)
    tokens = _tokens(service, body)
    strings = service.engine.tokenizer.token_strings(tokens) if body.return_token_strs else None
    answer = {"count": len(tokens), "max_model_len": service.engine.max_len, "tokens": tokens, "token_strs": strings}
    return JSONResponse(answer)


def _tokens(service: Service, body: TokenizeTextBody | TokenizeChatBody) -> list[int]:
    tokenizer = service.engine.tokenizer
    if isinstance(body, TokenizeTextBody):
        return tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens)
    text = tokenizer.render(
        message_dicts(body.messages, service.engine.options.served_model_name),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        kwargs=body.chat_template_kwargs,
    )
    return tokenizer.encode(text, add_special_tokens=body.add_special_tokens)


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, request: Request) -> JSONResponse:
    """Text of token ids."""
    service = service_of(request)
    service.adapters.resolve(body.model)
    return JSONResponse({"prompt": service.engine.tokenizer.decode(body.tokens)})


@router.get("/engine/residency")
async def residency(request: Request) -> JSONResponse:
    """What is truly resident, least recently used first; stock vLLM does not tell."""
    snapshot = service_of(request).engine.residency
    return JSONResponse({"slots": snapshot.slots, "host": snapshot.host, "loads": snapshot.loads})


@router.get("/engine/faults")
async def read_faults(request: Request) -> JSONResponse:
    """The injected latency and faults as they stand."""
    return JSONResponse(service_of(request).faults.as_dict())


@router.post("/engine/faults")
async def change_faults(body: dict[str, Any], request: Request) -> JSONResponse:
    """Change some of the injected latency and faults, for tests."""
    faults = service_of(request).faults
    faults.change(body)
    return JSONResponse(faults.as_dict())
