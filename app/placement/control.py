"""What the gateway says to a vLLM server apart from calls: list, load and unload adapters, ask whether it lives.

Answers are judged by message, not by status: vLLM has used 400, 404 and 500 for the same refusals over its versions.
Texts of refusals go to the log only; they may name paths.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from app.types import AdapterVersion, Pool

MAX_ANSWER_BYTES = 8 * 1024 * 1024
PROBE_SECONDS = 2.0
LIST_SECONDS = 5.0
UNLOAD_SECONDS = 5.0
PROBED_TOKENS = 5
_INVALID = (
    "no adapter found",
    "lora rank",
    "lora_rank",
    "target modules",
    "dora",
    "bias",
    "modules_to_save",
    "unexpected module",
    "not supported",
    "does not support",
    "unsupported",
    "adapter_config",
    "safetensor",
    "conflicts with a served base model",
    "validation error",
)


class ReplicaError(Exception):
    """The replica could not be asked, or did not do what it was asked; another try may help."""


class InvalidAdapter(ReplicaError):
    """The replica will never load this adapter."""


class AlreadyLoaded(ReplicaError):
    """The replica knows an adapter of this name; whether it is the same one is to be seen."""


class Resident(msgspec.Struct, frozen=True):
    """Names in GPU slots and in host memory, least recently used first."""

    gpu: list[str]
    host: list[str]


class _Card(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


class _Logprobs(msgspec.Struct):
    top_logprobs: list[dict[str, float]]


class _Choice(msgspec.Struct):
    logprobs: _Logprobs


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Message(msgspec.Struct):
    message: str = ""


class _Envelope(msgspec.Struct):
    error: _Message | None = None
    detail: str | None = None


class ReplicaControl:
    """The control client of all replicas; use it with `async with`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def alive(self, pool: Pool, url: str) -> bool:
        """Whether the server answers at all and does not call itself ill."""
        try:
            status, _ = await self._ask(pool, "GET", f"{url}/health", PROBE_SECONDS)
        except ReplicaError:
            return False
        return status < 500

    async def models(self, pool: Pool, url: str) -> dict[str, str]:
        """Registered adapters, name to path, oldest registration first."""
        status, body = await self._ask(pool, "GET", f"{url}/v1/models", LIST_SECONDS)
        if status != 200:
            raise ReplicaError(f"listing models: status {status}")
        try:
            cards = msgspec.json.decode(body, type=_Models).data
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ReplicaError("listing models: not the expected JSON") from exc
        return {card.id: card.root or "" for card in cards if card.parent is not None}

    async def load(self, pool: Pool, url: str, adapter: AdapterVersion) -> None:
        """Load an adapter under its version id; raises AlreadyLoaded, InvalidAdapter or ReplicaError.

        Servers with a resolver fetch and load what they are asked a token of.
        """
        if pool.resolver:
            await self.next_token(pool, url, adapter.id, "a")
            return
        body = msgspec.json.encode({"lora_name": adapter.id, "lora_path": pool.path_of(adapter)})
        answer = await self._ask(pool, "POST", f"{url}/v1/load_lora_adapter", pool.load_timeout_seconds, body)
        status, message = answer[0], _message(answer[1])
        if status == 200:
            return
        if "already been loaded" in message:
            raise AlreadyLoaded(message)
        if status == 404 and message == "Not Found":
            raise InvalidAdapter("the server does not take adapters: set VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
        if any(sign in message.lower() for sign in _INVALID):
            raise InvalidAdapter(message)
        raise ReplicaError(f"status {status}: {message}")

    async def unload(self, pool: Pool, url: str, name: str, *, really: bool = False) -> None:
        """Take a name off the server; one that is not there is as good as taken off. `really` frees its memory too."""
        body = msgspec.json.encode({"lora_name": name})
        path = "/v1/tunegate/remove" if really else "/v1/unload_lora_adapter"
        status, answer = await self._ask(pool, "POST", f"{url}{path}", UNLOAD_SECONDS, body)
        if status not in (200, 404):
            raise ReplicaError(f"status {status}: {_message(answer)}")

    async def residency(self, pool: Pool, url: str) -> Resident | None:
        """What the server really holds, if our plugin is installed there; None if it is not."""
        status, body = await self._ask(pool, "GET", f"{url}/v1/tunegate/residency", LIST_SECONDS)
        if status == 404:
            return None
        if status != 200:
            raise ReplicaError(f"asking for residency: status {status}")
        try:
            return msgspec.json.decode(body, type=Resident)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ReplicaError("asking for residency: not the expected JSON") from exc

    async def next_token(self, pool: Pool, url: str, model: str, prompt: str) -> dict[str, float]:
        """The likeliest next tokens after a prompt, with their log probabilities."""
        asked = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": PROBED_TOKENS}
        body = msgspec.json.encode(asked)
        status, answer = await self._ask(pool, "POST", f"{url}/v1/completions", pool.load_timeout_seconds, body)
        if status != 200:
            raise ReplicaError(f"probing: status {status}: {_message(answer)}")
        try:
            return msgspec.json.decode(answer, type=_Completion).choices[0].logprobs.top_logprobs[0]
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as exc:
            raise ReplicaError("probing: not the expected JSON") from exc

    async def _ask(
        self, pool: Pool, method: str, url: str, seconds: float, body: bytes | None = None
    ) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("ReplicaControl is used outside of its context")
        headers = {"content-type": "application/json"}
        if pool.api_key is not None:
            headers["authorization"] = f"Bearer {pool.api_key}"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, pool.connect_timeout_seconds))
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status, await _bounded(response)
        except TimeoutError as exc:
            raise ReplicaError(f"no answer within {seconds:g} s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise ReplicaError(type(exc).__name__) from exc


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while block := await response.content.readany():
        body += block
        if len(body) > MAX_ANSWER_BYTES:
            raise ReplicaError("the answer is too large")
    return bytes(body)


def _message(body: bytes) -> str:
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:500].decode("utf-8", "replace")
    if envelope.error is not None:
        return envelope.error.message
    return envelope.detail or ""
