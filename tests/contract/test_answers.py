"""The shape of answers, whole and streamed, and the refusals of requests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import Assets, Server
from tests.contract.test_adapters import error

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "How do I reset my password?"}]


def chat_body(**more: Any) -> dict[str, Any]:
    """A short greedy chat."""
    return {"model": "base", "messages": MESSAGES, "temperature": 0, "max_tokens": 6, "ignore_eos": True, **more}


def text_body(**more: Any) -> dict[str, Any]:
    """A short greedy completion."""
    return {"model": "base", "prompt": "How do I", "temperature": 0, "max_tokens": 6, "ignore_eos": True, **more}


def test_a_whole_chat_answer_has_these_members(server: Server) -> None:
    """The members, and the nulls that vLLM leaves."""
    answer = server.post(CHAT, chat_body()).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert set(answer) == {
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params", "metrics"),
    }
    choice = answer["choices"][0]
    assert set(choice) == {
        *("index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts"),
    }
    content = choice["message"].pop("content")
    assert content
    assert choice["message"] == {
        "role": "assistant",
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    assert (choice["finish_reason"], choice["stop_reason"], choice["token_ids"]) == ("length", None, None)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    assert set(usage) == {
        *("prompt_tokens", "completion_tokens", "total_tokens"),
        *("prompt_tokens_details", "completion_tokens_details"),
    }


def test_a_chat_stream_has_these_chunks(server: Server) -> None:
    """The role, then the tokens, the reason in the last; no usage unless asked for."""
    events = server.events(CHAT, chat_body())
    first, *tokens = events
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert [event["choices"][0]["finish_reason"] for event in tokens] == [None] * (len(tokens) - 1) + ["length"]
    assert all(set(event["choices"][0]["delta"]) == {"content"} for event in tokens)
    assert not any("usage" in event for event in events)
    assert ["system_fingerprint" in event for event in tokens] == [False] * (len(tokens) - 1) + [True]
    whole = server.post(CHAT, chat_body()).json()["choices"][0]["message"]["content"]
    assert "".join(event["choices"][0]["delta"]["content"] for event in events) == whole


def test_usage_comes_in_a_chunk_of_its_own(server: Server) -> None:
    """With include_usage the last chunk before [DONE] has no choices and the token counts."""
    body = chat_body(stream_options={"include_usage": True})
    *events, last = server.events(CHAT, body)
    assert last["choices"] == []
    prompt = last["usage"]["prompt_tokens"]
    assert last["usage"] == {"prompt_tokens": prompt, "total_tokens": prompt + 6, "completion_tokens": 6}
    assert prompt == server.post(CHAT, chat_body()).json()["usage"]["prompt_tokens"]
    assert not any("usage" in event for event in events)


def test_running_usage_is_in_every_chunk(server: Server) -> None:
    """With continuous_usage_stats each chunk counts what came so far; a busy vLLM puts several tokens in a chunk."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = server.events(CHAT, chat_body(stream_options=options))
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert (counts[0], counts[-2:]) == (0, [6, 6])


def test_several_answers_stream_under_their_index(server: Server) -> None:
    """N answers have n roles, n reasons, and one usage over all of them."""
    body = chat_body(n=2, temperature=1.0, seed=1, stream_options={"include_usage": True})
    *events, last = server.events(CHAT, body)
    for index in (0, 1):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert own[-1]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 12


def test_chat_log_probabilities(server: Server) -> None:
    """Each token with its bytes, its log-probability, and as many alternatives as asked for, itself first."""
    body = chat_body(logprobs=True, top_logprobs=3)
    content = server.post(CHAT, body).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 6
    for entry in content:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert entry["bytes"] == list(entry["token"].encode())
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0] == {key: entry[key] for key in ("token", "logprob", "bytes")}
    chunks = [event["choices"][0]["logprobs"]["content"] for event in server.events(CHAT, body)[1:]]
    assert [entry["token"] for chunk in chunks for entry in chunk] == [entry["token"] for entry in content]
    plain = server.post(CHAT, chat_body(logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in plain] == [[]] * 6


def test_text_log_probabilities(server: Server) -> None:
    """Offsets, tokens, log-probabilities and alternatives run side by side."""
    logprobs = server.post(TEXT, text_body(logprobs=2)).json()["choices"][0]["logprobs"]
    assert set(logprobs) == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
    assert {len(column) for column in logprobs.values()} == {6}
    assert logprobs["text_offset"][0] == 0
    assert logprobs["text_offset"][1] == len(logprobs["tokens"][0])
    assert all(token in top for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))


def test_a_whole_text_answer_has_these_members(server: Server) -> None:
    """The members, and the nulls that vLLM leaves."""
    answer = server.post(TEXT, text_body()).json()
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert set(answer) == {
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("kv_transfer_params", "ec_transfer_params", "metrics"),
    }
    assert set(answer["choices"][0]) == {
        *("index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids"),
        *("prompt_logprobs", "prompt_token_ids", "routed_experts"),
    }


def test_a_text_stream_has_these_chunks(server: Server) -> None:
    """The tokens, the reason in the last chunk, usage at the end; two prompts stream under their index."""
    body = text_body(prompt=["How do I", "Where is"], stream_options={"include_usage": True})
    *events, last = server.events(TEXT, body)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 12
    whole = server.post(TEXT, text_body(prompt=["How do I", "Where is"])).json()["choices"]
    for index in (0, 1):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in own) == whole[index]["text"]
        assert own[-1]["finish_reason"] == "length"


def test_the_prompt_can_be_echoed(server: Server) -> None:
    """`echo` puts the prompt before the answer."""
    plain, echoed = (server.post(TEXT, text_body(echo=echo)).json()["choices"][0]["text"] for echo in (False, True))
    assert echoed == f"How do I{plain}"


def test_a_stop_string_ends_the_answer_before_it(server: Server) -> None:
    """The text ends before the stop string, which is named; it can be kept; streams never show a part of it."""
    whole = server.post(CHAT, chat_body()).json()["choices"][0]["message"]["content"]
    word = whole[3:8]
    choice = server.post(CHAT, chat_body(stop=[word])).json()["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(word)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", word)
    kept = server.post(CHAT, chat_body(stop=word, include_stop_str_in_output=True)).json()["choices"][0]
    assert kept["message"]["content"] == whole[: whole.index(word) + len(word)]
    events = server.events(CHAT, chat_body(stop=[word]))
    assert "".join(event["choices"][0]["delta"]["content"] for event in events) == whole[: whole.index(word)]


def test_end_tokens_and_stop_tokens(server: Server) -> None:
    """The end token is counted, not shown, and not named; another stop token is named; both wait for min_tokens."""
    forced = chat_body(ignore_eos=False, logit_bias={"2": 100}, return_token_ids=True)
    choice = server.post(CHAT, forced).json()["choices"][0]
    assert choice["token_ids"] == [2]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    later = server.post(CHAT, {**forced, "min_tokens": 2}).json()["choices"][0]["token_ids"]
    assert len(later) == 3
    assert later[2] == 2
    named = server.post(CHAT, chat_body(stop_token_ids=[later[0]])).json()["choices"][0]
    assert (named["finish_reason"], named["stop_reason"]) == ("stop", later[0])


def test_answers_end_where_the_context_ends(server: Server) -> None:
    """A prompt that leaves three tokens gets three, whatever was asked for; a full one is refused."""
    body = {"prompt": [50] * 1021, "max_tokens": 100}
    answer = server.post(TEXT, text_body(**body)).json()
    assert answer["usage"] == {**answer["usage"], "prompt_tokens": 1021, "completion_tokens": 3}
    text = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
    assert error(server.post(TEXT, text_body(prompt=[50] * 1024))) == (400, "BadRequestError", text, "max_tokens")


def test_a_prompt_beyond_the_context_is_refused(server: Server) -> None:
    """400 with vLLM's sentence, for chat and text."""
    sentence = (
        "This model's maximum context length is 1024 tokens. However, your prompt contains at least 1025 input tokens,"
        " which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
        " (parameter=input_tokens, value=1025)"
    )
    long = [{"role": "user", "content": "word " * 2000}]
    for path, body in ((CHAT, chat_body(messages=long)), (TEXT, text_body(prompt=[50] * 1025))):
        assert error(server.post(path, body)) == (400, "BadRequestError", sentence, "input_tokens")


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, chat_body()), (TEXT, text_body()), ("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})],
)
def test_an_unknown_model_is_not_found(server: Server, path: str, body: dict[str, Any]) -> None:
    """404 with the parameter and the names that would do, adapters not among them."""
    message = "The model `nope` does not exist. Valid aliases: base."
    assert error(server.post(path, {**body, "model": "nope"})) == (404, "NotFoundError", message, "model")


def test_no_model_means_the_base(server: Server) -> None:
    """A request without a model is answered by the base model."""
    body = chat_body()
    del body["model"]
    assert server.post(CHAT, body).json()["model"] == "base"


REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"max_tokens": 0}, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)", "max_tokens"),
    (
        {"max_tokens": 9999},
        (
            "max_tokens=9999 cannot be greater than max_model_len=1024. Please request fewer output tokens."
            " (parameter=max_tokens, value=9999)"
        ),
        "max_tokens",
    ),
    (
        {"temperature": -1},
        "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        "temperature",
    ),
    (
        {"temperature": 3},
        "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)",
        "temperature",
    ),
    ({"min_p": 2}, "min_p must be in [0, 1], got 2.0.", None),
    ({"repetition_penalty": 0}, "repetition_penalty must be greater than zero, got 0.0.", None),
    ({"top_p": 0}, "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)", "top_p"),
    ({"top_p": 2}, "top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)", "top_p"),
    ({"top_k": -5}, "top_k must be 0 (disable), or at least 1, got -5.", None),
    ({"n": 0}, "n must be at least 1, got 0.", None),
    ({"n": 2}, "n must be 1 when using greedy sampling, got 2.", None),
    ({"presence_penalty": 3}, "presence_penalty must be in [-2, 2], got 3.0.", None),
    ({"frequency_penalty": -3}, "frequency_penalty must be in [-2, 2], got -3.0.", None),
    ({"stop": ""}, "stop cannot contain an empty string.", None),
    (
        {"n": 16385},
        (
            "n must be at most 16384, got 16385. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment"
            " variable."
        ),
        None,
    ),
    ({"min_tokens": -1}, "min_tokens must be greater than or equal to 0, got -1.", None),
    ({"min_tokens": 9}, "min_tokens must be less than or equal to max_tokens=6, got 9.", None),
    (
        {"top_logprobs": 3},
        "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)",
        "top_logprobs",
    ),
    (
        {"logprobs": True, "top_logprobs": 21},
        "Requested sample logprobs of 21, which is greater than max allowed: 20 (parameter=logprobs, value=21)",
        "logprobs",
    ),
    (
        {"stream_options": {"include_usage": True}},
        "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
        "stream_options",
    ),
    (
        {"logit_bias": {"5000": 1}},
        (
            "token_id(s) [5000] in logit_bias contain out-of-vocab token ids. Vocabulary size: 1024"
            " (parameter=logit_bias, value=[5000])"
        ),
        "logit_bias",
    ),
    (
        {"logit_bias": {"abc": 1}},
        (
            "logit_bias contains key(s) that cannot be converted to integer token IDs: ['abc']"
            " (parameter=logit_bias, value=['abc'])"
        ),
        "logit_bias",
    ),
    (
        {"stop_token_ids": [5000, -1], "min_tokens": 1},
        (
            "token_id(s) [5000, -1] in stop_token_ids contain out-of-vocab token ids. Vocabulary size: 1024"
            " (parameter=stop_token_ids, value=[5000, -1])"
        ),
        "stop_token_ids",
    ),
    (
        {"messages": []},
        "Cannot apply chat template to an empty conversation. Provide at least one message.",
        None,
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
        "base is not a multimodal model",
        None,
    ),
    (
        {"tools": []},
        (
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
            " (parameter=tools)"
        ),
        "tools",
    ),
    (
        {"tool_choice": "auto"},
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
        "tool_choice",
    ),
    (
        {"continue_final_message": True},
        (
            "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you"
            " want the model to continue the final message, and add_generation_prompt when you want to add a header"
            " that will prompt it to start a new assistant message instead."
        ),
        None,
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        None,
    ),
]


@pytest.mark.parametrize(("fields", "message", "param"), REFUSED)
def test_values_out_of_range_are_a_400(server: Server, fields: dict[str, Any], message: str, param: str | None) -> None:
    """Every refusal has vLLM's sentence and names vLLM's parameter."""
    assert error(server.post(CHAT, chat_body(**fields))) == (400, "BadRequestError", message, param)


@pytest.mark.parametrize(
    ("fields", "finding", "param"),
    [
        ({"temperature": "x"}, "'type': 'float_parsing', 'loc': 'body.temperature'", "body.temperature"),
        ({"seed": "a"}, "'type': 'int_parsing', 'loc': 'body.seed'", "body.seed"),
        ({"messages": "x"}, "'type': 'list_type', 'loc': 'body.messages'", "body.messages"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "List should have at most 4 items", "body.stop"),
    ],
)
def test_wrong_types_are_a_400(server: Server, fields: dict[str, Any], finding: str, param: str) -> None:
    """A field of the wrong type is named with its place."""
    status, kind, message, place = error(server.post(CHAT, chat_body(**fields)))
    assert (status, kind, place) == (400, "Bad Request", param)
    assert finding in message


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"),
        ([], "You must pass at least one prompt"),
        ([""], "The decoder prompt cannot be empty"),
        ([[50], []], "The decoder prompt cannot be empty"),
        ([99999], "Token id 99999 is out of vocabulary"),
    ],
)
def test_impossible_prompts_are_a_400(server: Server, prompt: object, message: str) -> None:
    """No prompt, and ids that are no tokens."""
    assert error(server.post(TEXT, text_body(prompt=prompt)))[2] == message


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"logprobs": -2}, "`logprobs` must be a positive value or -1. (parameter=logprobs, value=-2)", "logprobs"),
        ({"suffix": "x"}, "suffix is only supported for models with FIM completion rendering", "suffix"),
    ],
)
def test_text_completions_refuse_these_too(
    server: Server, fields: dict[str, Any], message: str, param: str | None
) -> None:
    """What only text completions know is refused in the same form."""
    assert error(server.post(TEXT, text_body(**fields))) == (400, "BadRequestError", message, param)


@pytest.mark.parametrize(
    "body",
    [
        *('{"temperature": NaN}', '{"temperature": 1e999}', '{"repetition_penalty": NaN}', '{"min_p": NaN}'),
        *('{"prompt": "\\ud800"}', '{"prompt": [9223372036854775807]}', '{"max_tokens": 9223372036854775808999}'),
        *("", "[]", "5", "{bad"),
    ],
)
def test_what_is_no_number_and_no_text_is_a_400(server: Server, body: str) -> None:
    """Numbers without a value, half a surrogate pair, ids beyond any vocabulary, bodies that are no object."""
    filled = f'{{"model": "base", "prompt": "x", {body[1:]}' if body.endswith("}") else body
    answer = server.http.post(TEXT, content=filled, headers={"content-type": "application/json"})
    assert error(answer)[0] == 400
    assert server.http.post("/detokenize", json={"tokens": [2**63 - 1]}).status_code == 400
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        *({}, {"content": "x"}, {"role": "user", "content": None}, {"role": "user", "content": 5}),
        *({"role": "user", "content": ["x"]}, {"role": "user", "content": [{"type": "text"}]}),
    ],
)
def test_messages_of_the_wrong_form_are_a_400(server: Server, message: object) -> None:
    """A message needs a role and a text, a text part its text."""
    assert error(server.post(CHAT, chat_body(messages=[message])))[0] == 400


def test_a_developer_speaks_as_the_system(server: Server) -> None:
    """Both roles give the same prompt; an assistant may have said nothing."""
    said = [{"role": "assistant", "content": None}, *MESSAGES]
    first, second = (
        server.post(CHAT, chat_body(messages=[{"role": role, "content": "Be brief."}, *said])).json()
        for role in ("developer", "system")
    )
    assert first["usage"] == second["usage"]
    assert first["choices"] == second["choices"]


def test_a_final_message_is_continued_where_it_ends(server: Server) -> None:
    """The answer goes on after the last message, and after its trailing space if it has one."""
    counts = [
        server.post(
            CHAT,
            chat_body(
                messages=[*MESSAGES, {"role": "assistant", "content": text}],
                continue_final_message=True,
                add_generation_prompt=False,
            ),
        ).json()["usage"]["prompt_tokens"]
        for text in ("To", "To ")
    ]
    assert counts[1] == counts[0] + 1


def test_unknown_fields_and_text_parts_are_accepted(server: Server) -> None:
    """What the server does not know is ignored; content in text parts is joined by newlines."""
    parts = [{"type": "text", "text": "How do I"}, {"type": "text", "text": "pay?"}]
    joined = [{"role": "user", "content": "How do I\npay?"}]
    first = server.post(CHAT, chat_body(messages=[{"role": "user", "content": parts}], weird={"x": 1}))
    second = server.post(CHAT, chat_body(messages=joined))
    assert first.status_code == 200
    assert first.json()["choices"] == second.json()["choices"]


def test_tokenize_counts_texts_and_conversations(server: Server, assets: Assets) -> None:
    """A conversation has the golden prompt's ids; ids go back to their text."""
    for case in assets.of("acme"):
        found = server.post("/tokenize", {"model": "acme", "messages": case.messages}).json()
        assert found == {
            "count": len(case.prompt_token_ids),
            "max_model_len": 1024,
            "tokens": case.prompt_token_ids,
            "token_strs": None,
        }
    text = "Où est ma commande? 🎁"
    found = server.post("/tokenize", {"model": "base", "prompt": text, "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert server.post("/detokenize", {"model": "base", "tokens": found["tokens"]}).json() == {"prompt": text}


def test_routes_outside_the_contract(server: Server) -> None:
    """There is no route for a single model; unknown routes and methods get FastAPI's own body."""
    for path in ("/v1/models/base", "/nope"):
        answer = server.http.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    answer = server.http.get("/v1/chat/completions")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
    health = server.http.get("/health")
    assert (health.status_code, health.content) == (200, b"")
    assert server.http.get("/version").json()["version"].startswith("0.")


def test_metrics_move_under_vllms_names(server: Server) -> None:
    """Counters rise by what was done, and the gauges exist."""

    def read() -> dict[str, float]:
        lines = [line for line in server.http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    labels = '{engine="0",model_name="base"}'
    before = read()
    server.post(CHAT, chat_body(model="acme"))
    after = read()
    assert after[f"vllm:generation_tokens_total{labels}"] == before[f"vllm:generation_tokens_total{labels}"] + 6
    assert after[f"vllm:prompt_tokens_total{labels}"] > before[f"vllm:prompt_tokens_total{labels}"]
    finished = 'vllm:request_success_total{engine="0",finished_reason="length",model_name="base"}'
    assert after[finished] == before[finished] + 1
    for name in ("num_requests_running", "num_requests_waiting"):
        assert after[f"vllm:{name}{labels}"] == 0
    for reason in ("capacity", "deferred"):
        waiting = f'vllm:num_requests_waiting_by_reason{{engine="0",model_name="base",reason="{reason}"}}'
        assert after[waiting] == 0
    used = 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="acme",waiting_lora_adapters="acme"}'
    assert after[used] > 0
    assert after["process_start_time_seconds"] > 0
