"""The server: OpenAI's API and a page to chat, as an ASGI application."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from plm.errors import ConfigError
from plm.serving.answers import Answer
from plm.serving.errors import ApiError
from plm.serving.page import page
from plm.serving.requests import Wanted, read_chat, read_completion, read_json
from plm.serving.served import Served
from plm.serving.streaming import EventStream, Inbox
from plm.serving.worker import Full, Job, Stopped, Told, Worker

if TYPE_CHECKING:
    from plm.formats.chat import Chat
    from plm.rollout.engine import Engine

Handle = Callable[[Request], Awaitable[Response]]
MOST_BYTES = 4 * 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Nobody reads it; the number is the one that is common for a client that has gone.
_GONE = 499


def create_app(
    engine: Engine,
    chat: Chat | None,
    name: str,
    *,
    waiting: int = 64,
    hosts: tuple[str, ...] | None = LOOPBACK,
) -> Starlette:
    """The application; its engine thread lives as long as its lifespan.

    Args:
        engine: with a tokenizer, and the end of a text as the first of its stop_ids; nobody else
            drives it.
        chat: None: the model knows no conversations, and only continues text.
        name: that requests call the model by.
        waiting: answers that may wait beside the engine's rows; more get status 503.
        hosts: names that the server may be called by; None: any. Where it listens on this machine
            alone, another name means that a page in a browser had it resolve to this machine.
    Raises:
        ConfigError: the engine has no tokenizer, or waiting is negative.
    """
    if waiting < 0:
        raise ConfigError(f"waiting={waiting} must be at least 0")
    served, worker = Served(engine, chat, name), Worker(engine, waiting=waiting)
    api = _Api(served, worker)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)

    routes = [
        Route("/v1/chat/completions", _guarded(api.chat, hosts), methods=["POST"]),
        Route("/v1/completions", _guarded(api.completion, hosts), methods=["POST"]),
        Route("/v1/models", _guarded(api.models, hosts)),
        Route("/v1/models/{name:path}", _guarded(api.model, hosts)),
        Route("/health", _guarded(api.health, hosts)),
        Route("/", _guarded(api.page, hosts)),
    ]
    handlers = {
        ApiError: _told,
        HTTPException: _no_route,
        ClientDisconnect: _nobody,
        Exception: _ours,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.state.worker = worker
    return app


class _Api:
    """What the addresses answer."""

    def __init__(self, served: Served, worker: Worker) -> None:
        self.served, self.worker = served, worker

    async def chat(self, request: Request) -> Response:
        return await self._answered(request, read_chat)

    async def completion(self, request: Request) -> Response:
        return await self._answered(request, read_completion)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def model(self, request: Request) -> Response:
        asked = request.path_params["name"]
        if asked != self.served.name:
            message = f"the model {asked[:80]!r} is not here; this server has {self.served.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return JSONResponse(self._about())

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "answers": self.worker.rows})

    async def page(self, request: Request) -> Response:
        html, headers = page()
        return HTMLResponse(html, headers=headers)

    def _about(self) -> dict[str, Any]:
        one = self.served
        about = {"id": one.name, "object": "model", "created": one.created, "owned_by": "plm"}
        # What a client cannot learn otherwise.
        more = {"context": one.context, "chat": one.chat is not None, "rows": one.rows}
        return {**about, "plm": more}

    async def _answered(self, request: Request, read: Callable[[Any, Served], Wanted]) -> Response:
        body = await _body(request)
        # Elsewhere, since a long text takes its time: streams go on meanwhile.
        wanted = await run_in_threadpool(lambda: read(read_json(body), self.served))
        return await _answer(request, wanted, self.served, self.worker)


def _guarded(handle: Handle, hosts: tuple[str, ...] | None) -> Handle:
    async def guarded(request: Request) -> Response:
        called = request.headers.get("host", "")
        name = re.sub(r":\d*$", "", called).strip("[]").lower()
        if hosts is not None and name not in hosts:
            message = f"this server is called {' or '.join(hosts)}, not {called[:80]!r}"
            raise ApiError(403, message, code="wrong_host")
        return await handle(request)

    return guarded


async def _body(request: Request) -> bytes:
    """The body, within bounds.

    Raises:
        ApiError: 413 or 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another origin may send other kinds without asking first.
        raise ApiError(415, f"send Content-Type: application/json, got {kind[:80]!r}")
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            most = MOST_BYTES // 2**20
            raise ApiError(413, f"the body is larger than {most} MiB", code="too_large")
    return b"".join(parts)


async def _answer(request: Request, wanted: Wanted, served: Served, worker: Worker) -> Response:
    inbox = Inbox(request)
    job = Job(wanted.prompts, wanted.sampling, wanted.n, inbox.tell)
    answer, streams = Answer(wanted, served), False

    def close() -> None:
        inbox.close()
        worker.cancel(job)

    try:
        worker.submit(job)
        # The engine has taken it: from here on a stream can begin with status 200.
        _raised(await inbox.get())
        if wanted.stream:
            response = EventStream(_events(answer, inbox), close)
            streams = True
            return response
        while any(row.finish is None for row in answer.rows):
            for prompt, event in _raised(await inbox.get()):
                answer.take(prompt, event)
        return JSONResponse(answer.whole())
    except (Full, Stopped) as error:
        raise ApiError(503, str(error), code="overloaded") from error
    finally:
        if not streams:
            close()


async def _events(answer: Answer, inbox: Inbox) -> AsyncIterator[str]:
    for chunk in answer.opening():
        yield _line(chunk)
    while any(row.finish is None for row in answer.rows):
        try:
            told = _raised(await inbox.get())
        except ClientDisconnect:
            return
        except ApiError as error:
            # The status is out already.
            yield _line(error.body())
            return
        for prompt, event in told:
            for chunk in answer.chunks(prompt, event):
                yield _line(chunk)
    for chunk in answer.closing():
        yield _line(chunk)
    yield "data: [DONE]\n\n"


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _raised(told: Told) -> list:
    """The tokens, or their error raised in the API's form."""
    if isinstance(told, ConfigError):
        raise ApiError(400, str(told)) from told
    if isinstance(told, Stopped):
        raise ApiError(503, str(told), code="stopping") from told
    if isinstance(told, ClientDisconnect):
        raise told
    if isinstance(told, BaseException):
        raise ApiError(500, "the engine failed; the server's log says how") from told
    return told


async def _told(request: Request, error: Exception) -> Response:
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return JSONResponse(error.body(), error.status, headers=headers)


async def _no_route(request: Request, error: Exception) -> Response:
    what = {404: "no such address", 405: f"not by {request.method}"}.get(error.status_code)
    message = f"{request.method} {request.scope['path'][:80]}: {what or error.detail}"
    return JSONResponse(
        ApiError(error.status_code, message).body(), error.status_code, headers=error.headers
    )


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)


async def _ours(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, "the server failed; its log says how").body(), 500)
