"""Numbers of a site for Prometheus: clips, seconds, bytes, budgets, runs."""

import contextlib
import hmac
import ipaddress
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import WSGIApplication

import dagster as dg
from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app, write_to_textfile
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from assets.site_catalogs import is_site_catalog
from resources.ledger import Ledger
from resources.site_store import SiteStore
from worldloop.errors import AccessError

_COUNTED_RUNS = 1000


def collect(instance: dg.DagsterInstance, store: SiteStore, ledger: Ledger) -> CollectorRegistry:
    """The site's numbers as a Prometheus registry, read now."""
    registry = CollectorRegistry()
    _stored(registry, store)
    _partitions(registry, instance)
    _runs(registry, instance)
    _budgets(registry, ledger)
    _catalogs(registry, instance)
    return registry


def write_metrics(
    path: Path, instance: dg.DagsterInstance, store: SiteStore, ledger: Ledger
) -> None:
    """Write the numbers in Prometheus' text format, atomically."""
    write_to_textfile(str(path), collect(instance, store, ledger))


def serve_metrics(
    port: int,
    collect_now: Callable[[], CollectorRegistry],
    *,
    host: str = "127.0.0.1",
    token: str = "",
) -> None:
    """Answer scrapes until interrupted; numbers are read at each scrape.

    Args:
        port: Where to listen.
        collect_now: Reads the numbers.
        host: Address to listen on.
        token: If given, who scrapes has to send it as `Authorization: Bearer <token>`.

    Raises:
        AccessError: If others than this machine could scrape without a token.
    """
    check_may_serve(host, token)

    class Live(Collector):
        def collect(self) -> Iterable[Metric]:
            return collect_now().collect()

    registry = CollectorRegistry()
    registry.register(Live())
    app = _guarded(make_wsgi_app(registry), token)
    with (
        make_server(host, port, app, handler_class=_Quiet) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        server.serve_forever()


def check_may_serve(host: str, token: str) -> None:
    """Refuse to serve beyond this machine without a token.

    Raises:
        AccessError: If others than this machine could read without one.
    """
    try:
        is_own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = host == "localhost"
    if not is_own and not token:
        raise AccessError(
            f"Asked to serve on {host!r} without a token; expected WORLDLOOP_METRICS_TOKEN, as "
            "others than this machine could read. Set it here and in the scraper, or serve on "
            "127.0.0.1."
        )


def _guarded(app: WSGIApplication, token: str) -> WSGIApplication:
    """The application, for those who know the token."""
    wanted = f"Bearer {token}".encode()

    def guarded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        sent = str(environ.get("HTTP_AUTHORIZATION", "")).encode()
        if token and not hmac.compare_digest(sent, wanted):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
            return [b"A token is needed: Authorization: Bearer <token>.\n"]
        return app(environ, start_response)

    return guarded


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not news."""


def _stored(registry: CollectorRegistry, store: SiteStore) -> None:
    gauge = Gauge(
        "worldloop_store_bytes", "Bytes in the site's store.", ["folder"], registry=registry
    )
    sizes: Tally[str] = Tally()
    for key, size_bytes in store.list():
        sizes[key.split("/")[0]] += size_bytes
    for folder, size_bytes in sizes.items():
        gauge.labels(folder).set(size_bytes)


def _partitions(registry: CollectorRegistry, instance: dg.DagsterInstance) -> None:
    gauge = Gauge(
        "worldloop_materialized_partitions",
        "Partitions that stand, by asset.",
        ["asset"],
        registry=registry,
    )
    for asset in (
        "wave_plan",
        "rendered_clips",
        "cosmos_clips",
        "embeddings",
        "catalog",
        "release",
    ):
        made = instance.get_materialized_partitions(dg.AssetKey(asset))
        gauge.labels(asset).set(len(made))


def _runs(registry: CollectorRegistry, instance: dg.DagsterInstance) -> None:
    gauge = Gauge(
        "worldloop_recent_runs",
        f"Runs among the newest {_COUNTED_RUNS}, by job and status.",
        ["job", "status"],
        registry=registry,
    )
    tally = Tally(
        (run.job_name, run.status.value) for run in instance.get_runs(limit=_COUNTED_RUNS)
    )
    for (job, status), count in tally.items():
        gauge.labels(job, status).set(count)


def _budgets(registry: CollectorRegistry, ledger: Ledger) -> None:
    gauge = Gauge(
        "worldloop_budget_today",
        "Today's budget: limit, and what is reserved or settled.",
        ["kind", "what"],
        registry=registry,
    )
    for line in ledger.today():
        for what in ("limit", "reserved", "settled"):
            gauge.labels(line.kind, what).set(getattr(line, what))


def _catalogs(registry: CollectorRegistry, instance: dg.DagsterInstance) -> None:
    """How the catalogs of the sites stood when they were last made; read from events only."""
    names = {
        "lag_s": "lag_s",
        "size_bytes": "bytes",
        "dagster/row_count": "rows",
        "recall": "recall",
    }
    gauge = Gauge(
        "worldloop_catalog",
        "Catalogs of a site when they were last made: lag_s, rows, bytes, recall, age_s.",
        ["site", "what"],
        registry=registry,
    )
    for key in filter(is_site_catalog, instance.all_asset_keys()):
        event = instance.get_latest_materialization_event(key)
        if event is None or event.asset_materialization is None:
            continue
        site = key.to_user_string().removesuffix("_catalog")
        gauge.labels(site, "age_s").set(max(time.time() - event.timestamp, 0.0))
        for name, what in names.items():
            found = event.asset_materialization.metadata.get(name)
            if found is not None and isinstance(found.value, int | float):
                gauge.labels(site, what).set(found.value)
