"""A small OpenAI-compatible server on a real socket: scripted chat answers, embeddings by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str]
Vector = Callable[[str], list[float]]


@dataclass(slots=True)
class FakeOpenAI:
    """What the server says, and what it was asked; `status` other than 200 refuses every call."""

    answer: Answer = lambda _: "hello"
    vector: Vector = lambda text: [1.0, float(len(text))]
    status: int = 200
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON of one answer."""
        self.asked.append(body)
        if self.status != 200:
            return {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}
        if path.endswith("/embeddings"):
            data = [
                {"object": "embedding", "index": n, "embedding": self.vector(t)} for n, t in enumerate(body["input"])
            ]
            return {
                "object": "list",
                "model": "m",
                "data": data[::-1],
                "usage": {"prompt_tokens": 1, "total_tokens": 1},
            }
        message = {"role": "assistant", "content": self.answer(body)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


@contextmanager
def serving(fake: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """Serve on loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.keys.append(self.headers["authorization"])
            raw = json.dumps(fake.reply(self.path, body)).encode()
            self.send_response(fake.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
