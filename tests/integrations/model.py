"""A scripted model: it speaks the chat completions API on a local port."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Reply = dict[str, Any] | int | str | Callable[[], dict[str, Any]]


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def calls(*calls: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """Return a reply that calls tools, each given as id, name and arguments."""
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for call_id, name, arguments in calls
        ],
    }


class Model(ThreadingHTTPServer):
    """Answers each request with the next reply of its script, or else repeats what it was told.

    A reply is a message, the status of an error, the text that a stream begins with before it
    breaks, or a function that returns a message.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def told(self, index: int = -1) -> list[dict[str, Any]]:
        """Return the messages of a request, without the system prompt."""
        messages: list[dict[str, Any]] = self.requests[index]["messages"]
        return [each for each in messages if each["role"] != "system"]

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | int | str:
        self.requests.append(request)
        reply = self.script.pop(0) if self.script else says(f"echo {self.told()[-1]['content']}")
        return reply() if callable(reply) else reply


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
        """Keep quiet."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.server.answer(request)
        if isinstance(reply, int):
            self._send(reply, "application/json", {"error": {"message": "scripted failure"}})
        elif isinstance(reply, str):
            text = f"data: {json.dumps(_event({'content': reply}, None))}\n\n"
            self._send(200, "text/event-stream", text, missing=100)
            self.close_connection = True
        elif request.get("stream"):
            events = [_event(delta, None) for delta in _deltas(reply)]
            events.append(_event({}, "stop"))
            text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
            self._send(200, "text/event-stream", text + "data: [DONE]\n\n")
        else:
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            choice = {"index": 0, "message": reply, "finish_reason": "stop"}
            completion = _about("chat.completion") | {"choices": [choice], "usage": usage}
            self._send(200, "application/json", completion)

    def _send(
        self, status: int, kind: str, body: str | dict[str, Any], *, missing: int = 0
    ) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) + missing))
        self.end_headers()
        self.wfile.write(data)


def _about(kind: str) -> dict[str, Any]:
    return {"id": "c", "object": kind, "created": 1, "model": "gpt-4o-mini"}


def _event(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return _about("chat.completion.chunk") | {"choices": [choice]}


def _deltas(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a reply in pieces, as it is streamed."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    text = reply["content"] or ""
    deltas += [{"content": text[start : start + 4]} for start in range(0, len(text), 4)]
    for index, call in enumerate(reply.get("tool_calls", ())):
        function = call["function"]
        begun = call | {"index": index, "function": {"name": function["name"], "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        arguments = {"index": index, "function": {"arguments": function["arguments"]}}
        deltas.append({"tool_calls": [arguments]})
    return deltas
