"""A proxy that stands before an emulator and makes it behave as clouds do on a bad day.

    with faulty(emulator.fresh_site(), Faults(slow_down_share=0.5)) as proxy:
        store = proxy.site.store()

What it does can be changed while it runs (`proxy.faults = Faults()` heals it). It also counts the
requests that clients really send, retries included.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Generic, TypeVar

import numpy as np
from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web
from yarl import URL

from tests.emulators.clouds import Emulator
from tests.emulators.servers import free_port

MAX_SKEW = timedelta(minutes=15)  # of S3 and of Azure's shared keys
PRECONDITIONS = {
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "x-goog-if-generation-match",
    "x-goog-if-metageneration-match",
}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length"}
SLOW_DOWN = (
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
TOO_MANY = "<Error><Code>TooManyRequests</Code><Message>Come back later.</Message></Error>"
DATES = ("x-amz-date", "x-ms-date", "date")
SKEWED = (  # in S3's words, and in Azure's
    "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and "
    "the current time is too large.</Message></Error>",
    "<Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request."
    "</Message><AuthenticationErrorDetail>Request date header too old</AuthenticationErrorDetail>"
    "</Error>",
)
Site = TypeVar("Site", bound=Emulator)


@dataclass(frozen=True)
class Faults:
    """What goes wrong; shares are of all requests, 0 to 1, drawn by the seed.

    Attributes:
        seed: Of the draws; the same requests in the same order meet the same faults.
        slow_down_share: Answered 503 SlowDown, and not passed on.
        too_many_share: Answered 429 with Retry-After, and not passed on.
        cut_share: The connection is cut, and nothing passed on.
        lost_answer_share: Passed on, then the connection is cut: done, but nobody hears of it.
        latency_s: Before every answer.
        ignores_preconditions: Whether create-if-absent overwrites.
        skew: How far the store's clock is ahead of ours. Beyond 15 minutes requests that carry
            their time are refused, as S3 and Azure do.
        refusal: Status and body of every answer, if any; nothing is passed on.
        verbs: Only requests of these verbs meet a fault; empty is all.
    """

    seed: int = 0
    slow_down_share: float = 0.0
    too_many_share: float = 0.0
    cut_share: float = 0.0
    lost_answer_share: float = 0.0
    latency_s: float = 0.0
    ignores_preconditions: bool = False
    skew: timedelta = timedelta()
    refusal: tuple[int, str] | None = None
    verbs: tuple[str, ...] = ()


@dataclass
class Proxy(Generic[Site]):
    """A running proxy.

    Attributes:
        site: The store, reached through the proxy.
        target: Address of what stands behind it.
        num_requests: Requests by verb, as the store would bill them.
        num_faults: Requests that met a fault, by its name.
    """

    site: Site
    target: str
    num_requests: Counter[str] = field(default_factory=Counter)
    num_faults: Counter[str] = field(default_factory=Counter)
    _faults: Faults = field(default_factory=Faults)
    _rng: np.random.Generator = field(default_factory=np.random.default_rng)

    @property
    def faults(self) -> Faults:
        """What goes wrong now."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults, self._rng = faults, np.random.default_rng(faults.seed)

    async def answer(self, request: web.Request, session: ClientSession) -> web.Response:
        """Pass a request on, or do not."""
        self.num_requests[request.method] += 1
        body = await request.read()
        faults = self._faults
        if faults.verbs and request.method not in faults.verbs:
            return await self._passed_on(request, body, session, Faults())
        await asyncio.sleep(faults.latency_s)
        fault = self._drawn(faults)
        if fault:
            self.num_faults[fault] += 1
        if fault in ("cut", "lost_answer"):
            if fault == "lost_answer":
                await self._passed_on(request, body, session, faults)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return _refusal(request, faults, fault) or await self._passed_on(
            request, body, session, faults
        )

    def _drawn(self, faults: Faults) -> str:
        shares = {
            "slow_down": faults.slow_down_share,
            "too_many": faults.too_many_share,
            "cut": faults.cut_share,
            "lost_answer": faults.lost_answer_share,
        }
        drawn = self._rng.random()
        for name, share in shares.items():
            drawn -= share
            if drawn < 0:
                return name
        return ""

    async def _passed_on(
        self, request: web.Request, body: bytes, session: ClientSession, faults: Faults
    ) -> web.Response:
        dropped = HOP_BY_HOP | (PRECONDITIONS if faults.ignores_preconditions else set())
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in dropped]
        url = URL(self.target + request.raw_path, encoded=True)
        if faults.ignores_preconditions:
            url = url.without_query_params("ifGenerationMatch")
        async with session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as found:
            content = await found.read()
            kept = {k: v for k, v in found.headers.items() if k.lower() not in HOP_BY_HOP}
            if request.method == "HEAD" and "Content-Length" in found.headers:
                kept["Content-Length"] = found.headers["Content-Length"]
            kept["Date"] = format_datetime(datetime.now(UTC) + faults.skew, usegmt=True)
            return web.Response(status=found.status, body=content, headers=kept)


@contextlib.contextmanager
def faulty(site: Site, faults: Faults | None = None) -> Iterator[Proxy[Site]]:
    """A proxy before a store, in a thread of this process, until the block ends."""
    port = free_port()
    proxy = Proxy(site.through(f"http://127.0.0.1:{port}"), site.endpoint)
    proxy.faults = faults or Faults()
    loop = asyncio.new_event_loop()
    up, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async def answer(request: web.Request) -> web.Response:
            return await proxy.answer(request, session)

        connector = TCPConnector(limit=0)
        jar = DummyCookieJar()
        async with ClientSession(
            connector=connector,
            cookie_jar=jar,
            auto_decompress=False,
            skip_auto_headers=["User-Agent", "Content-Type", "Accept", "Accept-Encoding"],
        ) as session:
            application = web.Application(client_max_size=1 << 33)
            application.router.add_route("*", "/{path:.*}", answer)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            up.set()
            await ended.wait()
            await runner.cleanup()
        cut_off = asyncio.all_tasks() - {asyncio.current_task()}
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    if not up.wait(timeout=10):
        raise RuntimeError("The proxy did not come up; its thread says why.")
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def _refusal(request: web.Request, faults: Faults, fault: str) -> web.Response | None:
    if faults.refusal:
        return _xml(*faults.refusal)
    if fault == "slow_down":
        return _xml(503, SLOW_DOWN)
    if fault == "too_many":
        return _xml(429, TOO_MANY, {"Retry-After": "1"})
    told = next((request.headers[name] for name in DATES if name in request.headers), None)
    if told and abs(datetime.now(UTC) + faults.skew - _moment(told)) > MAX_SKEW:
        return _xml(403, SKEWED[told.endswith("GMT")])
    return None


def _moment(told: str) -> datetime:
    if told.endswith("GMT"):
        return parsedate_to_datetime(told)
    return datetime.strptime(told, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _xml(status: int, body: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=body, content_type="application/xml", headers=headers)
