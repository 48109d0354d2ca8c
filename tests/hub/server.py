"""A Hub on 127.0.0.1 for the unmodified client in a subprocess, with faults that a test sets for each route."""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote

from aiohttp import web
from routes import ROUTES, Request, refusal
from store import Hub, HubError

Kind = Literal["call", "status", "delay", "hang", "reset", "truncate", "apply_then_fail"]
FOREIGN = ("hf_", "hugging", "transformers_")  # settings of the calling process that must not reach the client


@dataclass
class Fault:
    """
    What happens to requests of a route instead of, or besides, the answer.

    - call: `function(request)` before everything else
    - status: an answer with `status`, `headers` and `body`, and no work
    - delay: `seconds` later everything goes on as usual
    - hang: no answer until the server stops
    - reset: the connection is aborted, and no work
    - truncate: the answer breaks off after half of its body
    - apply_then_fail: the work is done, then the answer of "status", or with `reset` that of "reset"
    """

    route: str
    kind: Kind
    times: int | None = 1
    when: Callable[[Request], bool] = lambda request: True
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | dict[str, Any] = "Injected fault"
    seconds: float = 1.0
    reset: bool = False
    function: Callable[[Request], Any] = lambda request: None

    def take(self, request: Request) -> bool:
        """Whether it concerns this request, which is then counted."""
        pointless = self.kind == "truncate" and request.method == "HEAD"
        if request.route != self.route or self.times == 0 or pointless or not self.when(request):
            return False
        self.times = None if self.times is None else self.times - 1
        return True

    def answer(self) -> web.Response:
        if isinstance(self.body, str):
            return web.Response(status=self.status, headers=self.headers, text=self.body)
        return web.json_response(self.body, status=self.status, headers=self.headers)


@dataclass
class HubServer(Hub):
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> "HubServer":
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="hub", daemon=True)
        self._thread.start()
        ready.wait(timeout=10)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self.errors and kind is None:
            raise self.errors[0]

    def fault(self, route: str, kind: Kind, **details: Any) -> Fault:
        """Sets a fault after those already set: the first that is not used up happens."""
        if route not in ROUTES or kind not in get_args(Kind):
            raise ValueError(f"There is no route {route!r}, or no fault {kind!r}")
        self.faults.append(Fault(route, kind, **details))
        return self.faults[-1]

    def before(self, route: str, function: Callable[[Request], Any], times: int | None = 1) -> Fault:
        """Calls a function before a request is handled, for example to commit as another writer."""
        return self.fault(route, "call", function=function, times=times)

    def reset_faults(self) -> None:
        self.faults.clear()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """
        The environment of a client that keeps its files in `home` and reaches nothing but this server.

        Requests to other hosts come here as to a proxy, are refused, and stand in `requests` with the route "foreign".
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if not (name.lower().startswith(FOREIGN) or name.lower().endswith(("_proxy", "_offline")))
        }
        own = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HOME": str(home)}
        quiet = dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
        quiet["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # else datasets asks another host
        xet = {} if self.regular_only else {"HF_HUB_DISABLE_XET": "1"}
        proxies = {"http_proxy": self.endpoint, "https_proxy": self.endpoint, "no_proxy": "127.0.0.1"}
        return kept | own | quiet | xet | proxies | more

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, received: web.BaseRequest) -> web.StreamResponse:
        request = await _read(received)
        self.requests.append(request)
        try:
            return await self._act(received, request)
        except Exception as error:  # a mistake in a test or here, which the client could hide behind its retries
            self.errors.append(error)
            raise

    async def _act(self, received: web.BaseRequest, request: Request) -> web.StreamResponse:
        for call in [fault for fault in self.faults if fault.kind == "call" and fault.take(request)]:
            call.function(request)
        fault = next((fault for fault in self.faults if fault.kind != "call" and fault.take(request)), None)
        if fault is None:
            return self._work(request)
        if fault.kind in ("delay", "hang"):
            await self._pause(fault.seconds if fault.kind == "delay" else None)
        if fault.kind in ("hang", "reset"):
            return _abort(received)
        if fault.kind == "status":
            return fault.answer()
        answer = self._work(request)
        if fault.kind == "apply_then_fail":
            return _abort(received) if fault.reset else fault.answer()
        return await _half(received, answer) if fault.kind == "truncate" else answer

    def _work(self, request: Request) -> web.Response:
        try:
            if request.route not in ROUTES:
                raise HubError(404, f"Unknown address: {request.method} {request.path}")
            answer = ROUTES[request.route].answer(self, request)
            return answer if isinstance(answer, web.Response) else web.json_response(answer)
        except HubError as error:
            return refusal(error)

    async def _pause(self, seconds: float | None) -> None:
        """Waits, but not longer than the server runs."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


async def _read(received: web.BaseRequest) -> Request:
    path = received.raw_path.partition("?")[0]
    name, match = ("unknown" if path.startswith("/") else "foreign"), {}
    for candidate, route in ROUTES.items():
        found = route.pattern.fullmatch(path)
        if found and received.method in route.methods:
            name, match = candidate, {key: unquote(part or "") for key, part in found.groupdict().items()}
            break
    body = b"" if received.method == "CONNECT" else await received.content.read()
    return Request(name, received.method, path, dict(received.query), received.headers, body, match)


def _abort(received: web.BaseRequest) -> web.Response:
    """Resets the TCP connection: the client sees neither an answer nor a proper end."""
    if received.transport is not None:
        connection = received.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        received.transport.abort()
    return web.Response()


async def _half(received: web.BaseRequest, answer: web.Response) -> web.StreamResponse:
    body = answer.body if isinstance(answer.body, bytes) else b""
    broken = web.StreamResponse(status=answer.status, headers=answer.headers)
    broken.content_length = len(body)
    await broken.prepare(received)
    await broken.write(body[: len(body) // 2])
    if received.transport is not None:
        received.transport.close()
    return broken
