"""From the engine's thread to a client, and word of a client that has gone the other way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from plm.serving.worker import Told

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send


class Inbox:
    """What the engine tells one request, and that its client has gone, in one line.

    Args:
        request: its body has been read.
    """

    def __init__(self, request: Request) -> None:
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Told] = asyncio.Queue()
        self._watch = asyncio.create_task(self._until_gone(request))

    def tell(self, told: Told) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._told.put_nowait, told)
        except RuntimeError:
            # The loop is closed: nobody listens any more.
            return

    async def get(self) -> Told:
        """The next; ClientDisconnect as the last where the client has gone."""
        return await self._told.get()

    def close(self) -> None:
        """Watch no more."""
        self._watch.cancel()

    async def _until_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._told.put_nowait(ClientDisconnect())


class EventStream(StreamingResponse):
    """Server-sent events; `close` is called however it ends, also before it begins."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()
