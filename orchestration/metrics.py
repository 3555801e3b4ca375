"""Numbers of a site for Prometheus: clips, seconds, bytes, budgets, runs."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from pathlib import Path

import dagster as dg
from prometheus_client import CollectorRegistry, Gauge, start_http_server, write_to_textfile
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from resources.ledger import Ledger
from resources.site_store import SiteStore

_COUNTED_RUNS = 1000


def collect(instance: dg.DagsterInstance, store: SiteStore, ledger: Ledger) -> CollectorRegistry:
    """The site's numbers as a Prometheus registry, read now."""
    registry = CollectorRegistry()
    _stored(registry, store)
    _partitions(registry, instance)
    _runs(registry, instance)
    _budgets(registry, ledger)
    return registry


def write_metrics(
    path: Path, instance: dg.DagsterInstance, store: SiteStore, ledger: Ledger
) -> None:
    """Write the numbers in Prometheus' text format, atomically."""
    write_to_textfile(str(path), collect(instance, store, ledger))


def serve_metrics(port: int, collect_now: Callable[[], CollectorRegistry]) -> None:
    """Answer scrapes on the loopback address until interrupted; numbers are read at each scrape."""

    class Live(Collector):
        def collect(self) -> Iterable[Metric]:
            return collect_now().collect()

    registry = CollectorRegistry()
    registry.register(Live())
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        thread.join()
    except KeyboardInterrupt:
        server.shutdown()


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
