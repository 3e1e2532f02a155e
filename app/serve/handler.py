"""Requests of OpenAI's form: checked here, answered by mlx-lm, and refused in OpenAI's form."""

import io
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from mlxarch.compat import server
from mlxarch.constrain import grammar
from mlxarch.errors import MlxarchError

from .access import Access, Denied
from .generator import Generator
from .logprobs import LogProbs

_MOST = 64_000_000  # bytes of a request
_CODES = {401: "invalid_api_key", 404: "not_found", 503: "unavailable"}
# What would change the answer and is not done, and the values that ask for nothing.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "functions": ([],),
    "draft_model": (),
    "adapters": (),
    "role_mapping": (),
}


class Handler(server.APIHandler):
    """Answers one request."""

    timeout = 60  # seconds that a client may keep silent, or not read

    def __init__(
        self, generator: Generator, name: str, known: set[str], access: Access, *args: Any
    ):
        self.generator, self.access = generator, access
        self.name, self.known = name, known | {name}
        self._failed: int | None = None  # the status of an error that mlx-lm is about to tell
        self._streaming = False
        self._logprobs: LogProbs | None = None
        super().__init__(generator, *args, system_fingerprint="mlxarch")

    def setup(self) -> None:
        """Listen to what is written, for errors that are not in OpenAI's form."""
        super().setup()
        self.wfile: Any = _Out(self.wfile.write, self.wfile.flush, self)

    def do_GET(self) -> None:  # noqa: N802
        """The models there are: one."""
        self._admit(self._tell)

    def do_POST(self) -> None:  # noqa: N802
        """An answer."""
        self._admit(self._answer)

    def do_OPTIONS(self) -> None:  # noqa: N802
        """No other site may read what is answered."""
        self._admit(lambda: self._send(204, None))

    def handle_completion(self, request: Any, stop_words: list[str]) -> None:
        """Answer, and say in OpenAI's form what went wrong meanwhile."""
        if self.logprobs:
            decode, chat = self.generator.tokenizer.decode, self.object_type != "text_completion"
            self._logprobs = LogProbs(decode, chat=chat, tops=self.top_logprobs > 0)
        vars(request)["logprobs"] = self._logprobs
        try:
            super().handle_completion(request, stop_words)
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            # Of headers that were not sent yet nothing is left.
            self._headers_buffer: list[bytes] = []
            reason = f"{type(error).__name__}: {error}"
            if self._streaming:
                self.wfile.write(f"data: {json.dumps(_error(500, reason))}\n\n".encode())
            else:
                self._refuse(500, reason)

    def handle_chat_completions(self) -> Any:
        """The conversation that is to be answered."""
        self.request_id = f"chatcmpl-{uuid4()}"
        self.object_type = "chat.completion.chunk" if self.stream else "chat.completion"
        body = self.body
        request = server.CompletionRequest("chat", "", body["messages"], body.get("tools"), None)
        vars(request)["schema"] = self.schema
        return request

    def generate_response(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A packet, its log-probabilities in OpenAI's form."""
        for key in ("tokens", "token_logprobs", "top_tokens"):
            kwargs.pop(key, None)
        response = super().generate_response(*args, **kwargs)
        response["choices"][0]["logprobs"] = self._logprobs and self._logprobs.told()
        return response

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request that is known, as a method or a line of HTTP."""
        self.close_connection = True
        if code == 501:
            self._refuse(405, f"{self.command} is not supported; GET and POST are.")
        else:
            self._refuse(code, f"{message or self.responses[code][0]}.")

    def completion_usage_response(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The last packet of a stream."""
        return super().completion_usage_response(*args, **kwargs) | {"object": self.object_type}

    def _admit(self, do: Callable[[], None]) -> None:
        try:
            self.access.check(self.headers)
            do()
        except Denied as denied:
            self._refuse(denied.status, denied.reason)

    def _tell(self) -> None:
        model = {"id": self.name, "object": "model", "created": self.created, "owned_by": "mlxarch"}
        model["context_length"] = self.generator.context
        path = unquote(self.path.partition("?")[0]).rstrip("/")
        asked = path.removeprefix("/v1/models/")
        if path == "/v1/models":
            self._send(200, {"object": "list", "data": [model]})
        elif path == "/health":
            self._send(200, {"status": "ok"})
        elif asked in self.known:
            self._send(200, model)
        elif asked != path:
            raise self._unknown(asked)
        else:
            raise Denied(404, f"There is no {path or '/'}; there are /v1/models, /health.")

    def _answer(self) -> None:
        chat = self.path in ("/v1/chat/completions", "/chat/completions")
        if not chat and self.path != "/v1/completions":
            raise Denied(404, f"There is no {self.path}; there are chat/completions, completions.")
        body = {key: value for key, value in self._body().items() if value is not None}
        asked = body.setdefault("model", self.name)
        if asked not in self.known:
            raise self._unknown(asked)
        body["model"] = self.name
        for key, harmless in _NOT_DONE.items():
            if key in body and body.pop(key) not in harmless:
                raise Denied(400, f"{key} is not supported; leave it out.")
        self.schema = _schema(body.pop("response_format", {"type": "text"}))
        (_check_chat if chat else _check_text)(body)
        if body.get("stream"):
            self._check_stream(body)
        raw = json.dumps(body).encode()
        del self.headers["Content-Length"]
        self.headers["Content-Length"] = str(len(raw))
        self.rfile = io.BytesIO(raw)
        super().do_POST()

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Denied(411, "Content-Length is missing; send it.")
        if int(length) > _MOST:
            raise Denied(413, f"The request has {int(length):,} bytes; at most {_MOST:,} are read.")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise Denied(400, f"The request is not JSON: {error}.") from error
        if not isinstance(body, dict):
            raise Denied(400, f"The request is a {type(body).__name__}; an object is wanted.")
        return body

    def _check_stream(self, body: dict[str, Any]) -> None:
        options = body.pop("stream_options", {})
        if isinstance(options, dict) and options.get("include_usage"):
            body["stream_options"] = {"include_usage": True}

    def _unknown(self, asked: Any) -> Denied:
        return Denied(404, f"The model {asked!r} is not served here; {self.name!r} is.")

    def _set_cors_headers(self) -> None:
        """None: a browser shows no other site what is answered here."""

    def _set_completion_headers(self, status_code: int = 200) -> None:
        self._failed = status_code if status_code >= 400 else None
        if self._failed is None:
            super()._set_completion_headers(status_code)

    def _set_stream_headers(self, status_code: int = 200) -> None:
        self._streaming = True
        super()._set_stream_headers(status_code)

    def end_headers(self) -> None:
        """Not of an error that is still to be told."""
        if self._failed is None:
            super().end_headers()

    def told(self, text: bytes) -> None:
        """Mlx-lm told of an error, its words in JSON."""
        # It says 404 to whatever it cannot answer.
        status = 400 if self._failed == 404 else self._failed or 400
        status = status if self.generator.is_healthy else 503
        self._failed = None
        self._refuse(status, json.loads(text)["error"])

    def _refuse(self, status: int, reason: str) -> None:
        self._send(status, _error(status, reason))

    def _send(self, status: int, body: dict[str, Any] | None) -> None:
        raw = b"" if body is None else json.dumps(body).encode()
        BaseHTTPRequestHandler.send_response(self, status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)


class _Out(io.BufferedIOBase):
    """What a handler writes to its client, unless it is an error of mlx-lm's."""

    def __init__(self, write: Callable[[bytes], Any], flush: Callable[[], None], handler: Handler):
        self._write, self._flush, self._handler = write, flush, handler

    def write(self, data: Any, /) -> int:
        """Hand it on."""
        if self._handler._failed is None:
            return self._write(data)
        self._handler.told(data)
        return len(data)

    def flush(self) -> None:
        """Hand it on now."""
        self._flush()


def _error(status: int, reason: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": reason, "type": kind, "param": None, "code": _CODES.get(status)}}


def _schema(wanted: Any) -> dict[str, Any] | None:
    """The JSON schema that a response_format stands for; None for text."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    found = {"type": "object"} if kind == "json_object" else None
    if kind == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        found = wanted["json_schema"].get("schema")
    if not isinstance(found, dict):
        raise Denied(400, "response_format is none; text, json_object and json_schema are known.")
    try:
        grammar(found)
    except MlxarchError as error:
        raise Denied(400, str(error)) from error
    return found


def _check_chat(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Denied(400, "messages is missing or empty; give at least one message.")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Denied(400, f"messages[{i}] has no role; a message is an object with one.")
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if not isinstance(content, str | list | None):
            raise Denied(400, f"messages[{i}].content is no text.")
        if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
            raise Denied(400, f"messages[{i}] has a part that is no text; only text is understood.")
    if body.get("tool_choice") == "none":
        body.pop("tools", None)


def _check_text(body: dict[str, Any]) -> None:
    prompt = body.get("prompt")
    body["prompt"] = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if not isinstance(body["prompt"], str):
        raise Denied(400, "prompt is no text; one text is wanted.")
    wanted = body.get("logprobs", False)
    if not isinstance(wanted, bool):
        body["logprobs"], body["top_logprobs"] = True, wanted if wanted != 0 else -1
