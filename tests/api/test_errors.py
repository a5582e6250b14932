"""Every refusal of the whole application in OpenAI's envelope: all paths, all methods, all kinds of fault."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from app.api import errors
from app.api.errors import field_of, invalid_request
from app.errors import Conflict, RateLimited
from app.lifespan import running
from app.main import create_app
from app.settings import CacheSettings, Settings

CANARY = "zebra-7731-canary"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD")
STRAY = (
    "/",
    "/v1",
    "/v1/",
    "/v1/nothing",
    "/v1/chat",
    "/admin",
    "/admin/v1/nothing",
    f"/{CANARY}",
    "/v1/models/a%00b",
    "//",
)


def check(answer: httpx2.Response) -> dict[str, Any]:
    """The answer is the envelope, names its request and repeats nothing that the caller sent."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert CANARY not in answer.text
    envelope: dict[str, dict[str, Any]] = answer.json()
    assert set(envelope) == {"error"}
    assert set(envelope["error"]) == {"message", "type", "param", "code"}
    assert envelope["error"]["message"]
    assert envelope["error"]["type"]
    return envelope["error"]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The whole gateway on embedded stores, without a socket."""
    settings = Settings(data_folder=tmp_path, cache=CacheSettings(semantic=False))
    async with running(settings) as opened:
        transport = httpx2.ASGITransport(create_app(opened), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
            client.headers["x-admin"] = opened.admin.admin_key
            yield client


async def test_every_path_and_method_refuses_in_the_envelope(gateway: httpx2.AsyncClient) -> None:
    """Without a key, with a wrong one, with broken and with odd bodies: whatever is refused, is refused so."""
    listed = (await gateway.get("/openapi.json")).json()["paths"]
    paths = [path.replace("{", "").replace("}", "") for path in listed]
    assert len(paths) > 20
    secret = f"Bearer {gateway.headers.pop('x-admin')}"
    statuses: set[int] = set()
    for path in (*paths, *STRAY):
        for method in METHODS:
            for headers, content in (
                ({}, None),
                ({"authorization": f"Bearer {CANARY}"}, f'{{"{CANARY[:5]}": "{CANARY}"}}'.encode()),
                ({"authorization": secret, "content-type": "application/json"}, b'{"' + CANARY.encode()),
                ({"authorization": secret, "content-type": "application/json"}, b'["' + CANARY.encode() + b'"]'),
                ({"authorization": secret, "content-type": f"text/{CANARY}"}, CANARY.encode()),
            ):
                answer = await gateway.request(method, path, content=content, headers=headers)
                statuses.add(answer.status_code)
                assert answer.status_code < 500, (method, path, answer.text)
                if answer.status_code >= 400 and method != "HEAD":
                    check(answer)
    assert statuses >= {200, 400, 401, 404, 405}


async def test_405_names_every_method_of_the_path(gateway: httpx2.AsyncClient) -> None:
    """`Allow` holds all of them, though each is a route of its own."""
    for path, allowed in (
        ("/admin/v1/tenants", "GET, POST"),
        ("/admin/v1/tenants/acme", "DELETE, GET, PATCH"),
        ("/admin/v1/routes/a/b", "DELETE, GET, PUT"),
        ("/v1/models", "GET"),
        ("/v1/chat/completions", "POST"),
    ):
        answer = await gateway.request("OPTIONS", path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed
        assert check(answer)["code"] == "method_not_allowed"


class Body(BaseModel):
    """A body with each kind of field."""

    model_config = ConfigDict(extra="forbid")
    count: int
    inner: list[dict[str, int]] = []


@pytest.fixture
def app() -> FastAPI:
    """A small application with one fault of each kind."""
    made = FastAPI()
    errors.install(made)

    @made.post("/take")
    async def take(body: Body, size: int = 1) -> None:
        """Take a body."""

    @made.get("/crash")
    async def crash() -> None:
        """Fail with a secret in the message."""
        raise ZeroDivisionError(f"inside: {CANARY}")

    @made.get("/conflict")
    async def conflict() -> None:
        """Refuse."""
        raise Conflict("taken", param="id")

    @made.get("/limited")
    async def limited() -> None:
        """Refuse with headers."""
        raise RateLimited("slow down", headers=((b"retry-after", b"7"),))

    return made


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the small application."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as opened:
        yield opened


@pytest.mark.parametrize(
    ("json", "param", "code"),
    [
        ({}, "count", "missing_required_parameter"),
        ({"count": CANARY}, "count", "invalid_value"),
        ({"count": 1, "inner": [{"a": 1}, {"b": CANARY}]}, "inner[1].b", "invalid_value"),
        ({"count": 1, "colour": CANARY}, "colour", "unknown_parameter"),
        ([CANARY], None, "invalid_value"),
        (CANARY, None, "invalid_value"),
        (None, None, "missing_required_parameter"),
    ],
)
async def test_422_becomes_400_with_the_field(
    client: httpx2.AsyncClient, json: Any, param: str | None, code: str
) -> None:
    """The first wrong field is `param`; no value is said again."""
    answer = await client.post("/take", json=json)
    assert answer.status_code == 400
    error = check(answer)
    assert (error["param"], error["code"]) == (param, code)


async def test_queries_are_named_too(client: httpx2.AsyncClient) -> None:
    """A wrong query parameter is 400 with its name."""
    answer = await client.post(f"/take?size={CANARY}", json={"count": 1})
    assert (answer.status_code, check(answer)["param"]) == (400, "size")


async def test_a_defect_is_500_that_names_the_request_only(client: httpx2.AsyncClient) -> None:
    """Nothing of the inside, but the name under which the log has it."""
    answer = await client.get("/crash")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in check(answer)["message"]
    assert "ZeroDivisionError" not in answer.text


async def test_our_own_refusals_keep_status_param_and_headers(client: httpx2.AsyncClient) -> None:
    """Raised anywhere in an endpoint they come out as they are."""
    conflict = await client.get("/conflict")
    assert (conflict.status_code, check(conflict)["param"]) == (409, "id")
    limited = await client.get("/limited")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    check(limited)


@given(place=st.lists(st.text(max_size=200) | st.integers(0, 10**6), max_size=6))
def test_a_field_is_short_and_printable_whatever_the_caller_called_it(place: list[str | int]) -> None:
    """Names come from the caller: they are bounded, on one line, and safe for a log."""
    name = field_of(("body", *place))
    assert len(name) <= 100
    assert name.isprintable()


def test_many_faults_are_said_at_once_within_bounds() -> None:
    """Five fields are named, the rest are counted."""
    found = [{"type": "missing", "loc": ("body", f"f{number}"), "msg": "Field required"} for number in range(9)]
    error = invalid_request(found)
    assert error.param == "f0"
    assert "f4: is required" in error.message
    assert "f5" not in error.message
    assert error.message.endswith("and 4 more.")
