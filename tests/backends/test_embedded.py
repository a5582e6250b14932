"""Embeddings made inside the gateway speak the wire that SDKs expect of a provider."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends.embedded import MAX_INPUTS, EmbeddedBackend
from app.errors import InvalidRequest, Unavailable
from app.types import Operation
from tests.backends.calls import call, endpoint


@dataclass(slots=True)
class Lengths:
    """A text's vector says how long it is."""

    dimensions: int = 2
    model: str = "lengths"

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text."""
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def _letters(text: str) -> int:
    return len(text)


async def _made(embedder: Lengths | None = None, **fields: Any) -> dict[str, Any]:
    backend = EmbeddedBackend(embedder or Lengths(), _letters)
    asked = call(Operation.EMBEDDINGS, **fields)
    async with backend.open(endpoint(""), asked, "req_1") as made:
        body: dict[str, Any] = json.loads(b"".join([block async for block in made.blocks()]))
    return body


async def test_floats_in_the_order_of_the_inputs() -> None:
    """One row an input, usage in tokens, the route's own name as the model."""
    body = await _made(input=["abc", "z"])
    assert [row["embedding"] for row in body["data"]] == [[3.0, 1.0], [1.0, 1.0]]
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert body["model"] == "support"


async def test_base64_is_little_endian_float32() -> None:
    """The official SDK asks for it unless told otherwise."""
    body = await _made(input="abc", encoding_format="base64")
    raw = base64.b64decode(body["data"][0]["embedding"])
    assert np.frombuffer(raw, dtype="<f4").tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1], [2]]}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_embedded_names_its_field(fields: dict[str, Any], param: str) -> None:
    """Token ids belong to another model's tokenizer; the rest is the caller's to mend."""
    with pytest.raises(InvalidRequest) as caught:
        await _made(**fields)
    assert caught.value.param == param


async def test_a_gateway_without_embedder_says_so() -> None:
    """Switched off is 503 with advice, not a crash."""
    with pytest.raises(Unavailable, match=r"cache\.semantic"):
        async with EmbeddedBackend(None, _letters).open(endpoint(""), call(Operation.EMBEDDINGS, input="a"), "req"):
            pass


@pytest.mark.parametrize(("field", "value"), [("dimensions", "384"), ("encoding_format", 5), ("input", 7)])
async def test_a_field_of_another_type_is_named(field: str, value: object) -> None:
    """It is the caller's mistake, not ours."""
    with pytest.raises(InvalidRequest) as caught:
        await _made(None, **{"input": "abc", field: value})
    assert caught.value.param == field
