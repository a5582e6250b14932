"""Loading and unloading adapters: statuses and bodies, word for word."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.contract.conftest import BOTH, Assets, Server
from tests.support.engine import running_server
from tests.support.processes import free_port
from tests.support.vllm import vllm_server

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
JSON = {"content-type": "application/json"}


def error(answer: httpx2.Response) -> tuple[int, str, str, str | None]:
    """Status, type, message and parameter; the body repeats the status and holds nothing else."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == answer.status_code
    return answer.status_code, body["error"]["type"], body["error"]["message"], body["error"]["param"]


def test_a_load_answers_with_bare_text(bare: Server, assets: Assets) -> None:
    """200, a sentence, and no content type."""
    answer = bare.load("acme", assets.adapter("acme"))
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'acme' added successfully.")
    assert "content-type" not in answer.headers
    gone = bare.unload("acme")
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'acme' removed successfully.")
    assert "content-type" not in gone.headers


def test_models_are_listed_in_order_of_registration(bare: Server, assets: Assets) -> None:
    """The base first, then the adapters with their paths and their parent; unloading takes one out."""
    for name in ("corvid", "acme"):
        bare.load(name, assets.adapter(name))
    base, *adapters = bare.listed()
    assert (base["id"], base["root"], base["parent"]) == ("base", str(assets.base), None)
    assert base["max_model_len"] == 1024
    assert [(card["id"], card["root"], card["parent"], card["max_model_len"]) for card in adapters] == [
        ("corvid", assets.adapter("corvid"), "base", None),
        ("acme", assets.adapter("acme"), "base", None),
    ]
    for card in (base, *adapters):
        assert (card["object"], card["owned_by"]) == ("model", "vllm")
        assert set(card) == {
            *("id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"),
        }
        assert card["permission"][0]["object"] == "model_permission"
    bare.unload("corvid")
    assert [card["id"] for card in bare.listed()] == ["base", "acme"]


def test_a_name_is_taken_once(server: Server, assets: Assets) -> None:
    """A second load of a name is refused, whatever its path, and so is the base model's name."""
    for path in ("acme", "bloom"):
        assert error(server.load("acme", assets.adapter(path))) == (
            400,
            "InvalidUserInput",
            (
                "The lora adapter 'acme' has already been loaded. If you want to load the adapter in place, set"
                " 'load_inplace' to True."
            ),
            None,
        )
    assert error(server.load("base", assets.adapter("acme"))) == (
        400,
        "InvalidUserInput",
        "The lora adapter 'base' conflicts with a served base model.",
        None,
    )


@pytest.mark.parametrize(("name", "path"), [("", "/x"), ("x", ""), ("", "")])
def test_empty_names_and_paths_are_refused(bare: Server, name: str, path: str) -> None:
    """Both must be given."""
    message = "Both 'lora_name' and 'lora_path' must be provided."
    assert error(bare.load(name, path)) == (400, "InvalidUserInput", message, None)


@pytest.mark.parametrize(("path", "shown"), [("/opt/none/x", "<path>"), ("./none/x", "./none/x")])
def test_a_missing_adapter_is_not_found(bare: Server, path: str, shown: str) -> None:
    """404; an absolute path is hidden in the message, and nothing is registered."""
    message = f"Loading lora x failed: No adapter found for {shown}"
    assert error(bare.load("x", path)) == (404, "NotFoundError", message, None)
    assert len(bare.listed()) == 1


def test_an_unknown_adapter_cannot_be_unloaded(bare: Server) -> None:
    """404 for a name nobody loaded, 400 for no name."""
    assert error(bare.unload("x")) == (404, "NotFoundError", "The lora adapter 'x' cannot be found.", None)
    message = "'lora_name' needs to be provided to unload a LoRA adapter."
    assert error(bare.unload("")) == (400, "InvalidUserInput", message, None)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"r": 32}, "LoRA rank 32 is greater than max_lora_rank 16."),
    "rank_pattern": ({"rank_pattern": {"q_proj": 64}}, "LoRA rank 64 is greater than max_lora_rank 16."),
    "dora": ({"use_dora": True}, "vLLM does not yet support DoRA."),
    "bias": ({"bias": "all"}, "Adapter bias is not supported."),
    "lora_bias": ({"lora_bias": True}, "vLLM does not support LoRA bias (lora_bias)."),
    "modules_to_save": (
        {"modules_to_save": ["lm_head"]},
        (
            'vLLM only supports modules_to_save being either None or ["classifier", "score"] for classification models.'
            " Unsupported modules_to_save: ['lm_head']"
        ),
    ),
    "pissa": (
        {"init_lora_weights": "pissa"},
        (
            "vLLM does not support init_lora_weights='pissa'. Inits such as PiSSA, OLoRA, CorDA and LoftQ modify the"
            " base model weights when PEFT loads the adapter. Convert it to a regular LoRA adapter with PEFT's"
            " path_initial_model_for_weight_conversion, or set init_lora_weights to true if the served base model"
            " already contains the modified weights."
        ),
    ),
    "alora": ({"alora_invocation_tokens": [1]}, "vLLM does not support Activated LoRA (aLoRA)."),
    "replication": ({"layer_replication": [[0, 1]]}, "vLLM does not support layer_replication."),
    "qalora": ({"use_qalora": True}, "vLLM does not support QALoRA."),
    "bdlora": ({"use_bdlora": {"n": 1}}, "vLLM does not support block-diagonal LoRA (BD-LoRA)."),
    "zero_rank": ({"r": 0}, "LoRA rank `r` must be a positive integer, got 0."),
    "several": (
        {"use_dora": True, "bias": "all", "r": 64},
        "vLLM does not yet support DoRA. LoRA rank 64 is greater than max_lora_rank 16. Adapter bias is not supported.",
    ),
}


def worker(message: str) -> str:
    """How the server reports what its worker said."""
    return (
        f"Call to add_lora method failed: Worker failed with error '{message}', please check the stack trace above for"
        " the root cause"
    )


@pytest.mark.parametrize("case", REFUSED)
def test_unservable_adapters_are_a_500(bare: Server, variant: Callable[..., str], case: str) -> None:
    """Every refusal of the worker has the status 500 and its own sentence, and registers nothing."""
    changes, sentence = REFUSED[case]
    answer = bare.load("x", variant(case, **changes))
    assert error(answer) == (500, "InternalServerError", worker(sentence), None)
    assert len(bare.listed()) == 1


def test_broken_files_are_a_500(bare: Server, variant: Callable[..., str]) -> None:
    """A configuration that is no JSON, missing tensors, tensors that do not parse."""
    config = Path(variant("config"))
    (config / "adapter_config.json").write_text("{bad")
    sentence = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert error(bare.load("x", str(config)))[:3] == (500, "InternalServerError", worker(sentence))
    empty = Path(variant("empty"))
    (empty / "adapter_model.safetensors").unlink()
    answer = error(bare.load("x", str(empty)))
    assert (answer[0], "doesn't contain tensors" in answer[2]) == (500, True)
    garbage = Path(variant("garbage"))
    (garbage / "adapter_model.safetensors").write_bytes(b"garbage")
    answer = error(bare.load("x", str(garbage)))
    assert (answer[0], "header too small" in answer[2]) == (500, True)


def test_whatever_breaks_a_load_is_a_500(server: Server, variant: Callable[..., str], assets: Assets) -> None:
    """A rank that is a word, a pattern that is a list, a path no file can have: said to the caller, and survived."""
    paths = [variant("word", r="eight"), variant("list", rank_pattern=["q_proj"]), "/tmp/\0"]
    for path in paths:
        status, kind, message, _ = error(server.load("x", path))
        assert (status, kind) == (500, "InternalServerError")
        assert message.startswith("Call to add_lora method failed: Worker failed with error")
    case = assets.of("acme")[0]
    assert server.chat("acme", case.messages)["choices"][0]["message"]["content"] == case.text


def test_a_failed_load_leaves_the_others_working(server: Server, variant: Callable[..., str], assets: Assets) -> None:
    """Adapters that were registered before a refusal answer after it."""
    assert server.load("x", variant("dora", use_dora=True)).status_code == 500
    case = assets.of("bloom")[0]
    assert server.chat("bloom", case.messages)["choices"][0]["message"]["content"] == case.text


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        (
            LOAD,
            '{"lora_name": "x"}',
            (
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.lora_path', 'msg': 'Field required',"
                " 'input': '<dict of 1 items>'}"
            ),
            "body.lora_path",
        ),
        (
            UNLOAD,
            "{}",
            (
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.lora_name', 'msg': 'Field required',"
                " 'input': '<dict of 0 items>'}"
            ),
            "body.lora_name",
        ),
        (
            LOAD,
            "{bad",
            (
                "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode error',"
                " 'input': '<dict of 0 items>', 'ctx': {'error': 'Expecting property name enclosed in double quotes'}}"
            ),
            "body.1",
        ),
        (
            LOAD,
            '{"lora_name": 3, "lora_path": 4}',
            (
                "2 validation errors:\n"
                "  {'type': 'string_type', 'loc': 'body.lora_name', 'msg': 'Input should be a valid string',"
                " 'input': '3'}\n"
                "  {'type': 'string_type', 'loc': 'body.lora_path', 'msg': 'Input should be a valid string',"
                " 'input': '4'}"
            ),
            "body.lora_name",
        ),
    ],
)
def test_malformed_bodies_are_a_400(bare: Server, path: str, body: str, message: str, param: str) -> None:
    """The validation's findings, one a line, and the place of the first."""
    assert error(bare.http.post(path, content=body, headers=JSON)) == (400, "Bad Request", message, param)


@pytest.mark.parametrize("path", [LOAD, UNLOAD, "/v1/chat/completions", "/tokenize"])
def test_only_json_is_read(bare: Server, path: str) -> None:
    """Another content type is refused before the body is looked at."""
    answer = bare.http.post(path, content="{}", headers={"content-type": "text/plain"})
    message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
    assert error(answer) == (400, "Bad Request", message, None)


@pytest.mark.parametrize("kind", BOTH)
def test_a_missing_folder_at_a_lazy_reload_is_the_end(kind: str, assets: Assets, tmp_path: Path) -> None:
    """An adapter that has aged out and whose folder is gone kills the server: a 500, and the process leaves."""
    copies = [shutil.copytree(assets.adapter("acme"), tmp_path / f"c{number}") for number in range(3)]
    port = free_port()
    # fmt: off
    engine = [
        sys.executable, "-m", "app.engine", "--port", str(port), "--model", str(assets.base),
        "--max-loras", "1", "--max-cpu-loras", "2",
    ]
    # fmt: on
    started = (
        running_server(engine, f"http://127.0.0.1:{port}", seconds=30)
        if kind == "reference"
        else vllm_server(assets.base, max_loras=1, max_cpu_loras=2)
    )
    with started as (url, process), httpx2.Client(base_url=url, timeout=60) as client:
        server = Server(client)
        for number, copy in enumerate(copies):
            assert server.load(f"c{number}", str(copy)).status_code == 200
        shutil.rmtree(copies[0])
        answer = server.post("/v1/completions", {"model": "c0", "prompt": "Hello", "max_tokens": 2})
        text = "EngineCore encountered an issue. See stack trace (above) for the root cause."
        assert error(answer) == (500, "InternalServerError", text, None)
        process.wait(timeout=30)
