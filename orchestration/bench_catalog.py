"""What the catalogs of a site cost: rows projected, clips found, requests made.

Each section makes its own site of invented clips in a temporary folder and removes it. Times are
wall seconds beside CPU seconds of this process, because the first say little on a shared machine.
`python -m orchestration.bench_catalog --only searchable,search` picks sections, `--rows` sets how
many vectors are searched.
"""

import argparse
import contextlib
import logging
import os
import platform
import resource
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from resources import index_advisor, lance_upkeep
from resources.clip_index import ClipIndex
from resources.index_advisor import Query, nearest_scores
from resources.lance_projection import LanceProjection
from resources.projection import Projection
from resources.site_catalog import lineage
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.site_view import SiteView
from worldloop import records
from worldloop.index_advisor import VectorIndex, settings
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.records import Table as Format
from worldloop.seeds import canonical_json, stream
from worldloop.sites import Site

_MODEL = "bench"
_KEY = "WORLDLOOP_BENCH_KEY"  # the invented secret of the S3 server in this process
_WIDTH = 512
_CITIES, _INSTITUTIONS = 100, 5
_CENTRES = 2_000  # clusters of the invented vectors
_SPREAD = 0.9  # length of the step from a centre, which has length one
_AT_ONCE = 20_000
_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_console = Console(width=110)


@dataclass(frozen=True)
class Timed:
    """How long something took.

    Attributes:
        wall_s: Wall seconds.
        cpu_s: CPU seconds of this process, user and system.
    """

    wall_s: float
    cpu_s: float


def main() -> None:
    """Run the sections that were asked for and print a table each."""
    sections: dict[str, Callable[[int], None]] = {
        "metadata": lambda _rows: bench_metadata(),
        "searchable": lambda _rows: bench_searchable(),
        "batches": lambda _rows: bench_batches(),
        "rebuild": lambda _rows: bench_rebuild(),
        "requests": lambda _rows: bench_requests(),
        "search": bench_search,
    }
    parser = argparse.ArgumentParser(prog="orchestration.bench_catalog", description=__doc__)
    parser.add_argument("--only", default=",".join(sections))
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    _console.print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}"
    )
    for name in options.only.split(","):
        sections[name](options.rows)


def bench_metadata(num_clips: int = 20_000) -> None:
    """Scalar log rows a second into the Iceberg tables."""
    from resources.iceberg_projection import IcebergProjection

    with _site() as view:
        for start in range(0, num_clips, 5_000):
            log_wave(view.log, f"w{start // 5_000:04d}", 5_000, width=8)
        projection = IcebergProjection()
        with _timed() as took:
            done = projection.catch_up(view)
    table = _table("Metadata rows into Iceberg", "rows", "wall s", "CPU s", "rows/s", "rows/CPU-s")
    each = took()
    table.add_row(
        f"{done.num_rows:,}",
        f"{each.wall_s:.2f}",
        f"{each.cpu_s:.2f}",
        f"{done.num_rows / each.wall_s:,.0f}",
        f"{done.num_rows / each.cpu_s:,.0f}",
    )
    _console.print(table)


def bench_searchable(repeats: int = 24, num_clips: int = 50) -> None:
    """From rows in the log to clips that a search finds: what the projector takes."""
    projection = LanceProjection()
    took: list[Timed] = []
    with _site() as view:
        log_wave(view.log, "w0000", 10_000, width=_WIDTH)
        projection.catch_up(view)
        for number in range(1, repeats + 1):
            wave = f"w{number:04d}"
            log_wave(view.log, wave, num_clips, width=_WIDTH)
            with _timed() as each:
                projection.catch_up(view)
                index = ClipIndex.of_store(view.store)
                vector = np.ones(_WIDTH, np.float32)
                where = f"wave = '{wave}'"
                found = index.search(vector, limit=num_clips, model_id=_MODEL, where=where)
            assert found.height == num_clips, f"{found.height} of {num_clips} clips were found"
            took.append(each())
    table = _table(
        f"Log to searchable: {num_clips} clips beside 10,000, {repeats} repeats",
        "",
        "median s",
        "p95 s",
    )
    for name in ("wall_s", "cpu_s"):
        values = [getattr(one, name) for one in took]
        table.add_row(name, f"{np.median(values):.3f}", f"{np.percentile(values, 95):.3f}")
    _console.print(table)


def bench_batches(num_batches: int = 300, repeats: int = 5) -> None:
    """Following a log of many small batches that no checkpoint has gathered yet, one more at a time."""
    from resources.iceberg_projection import IcebergProjection

    projections: tuple[Projection, ...] = (LanceProjection(), IcebergProjection())
    took: dict[str, list[Timed]] = {projection.name: [] for projection in projections}
    with _site() as view:
        for number in range(num_batches + repeats):
            log_wave(view.log, f"w{number:05d}", 5, width=64)
            for projection in projections:
                if number < num_batches - 1:
                    break
                with _timed() as each:
                    projection.catch_up(view)
                took[projection.name].append(each())
    table = _table(
        f"One more batch of each kind behind {num_batches:,}", "", "median s", "most s", "CPU s"
    )
    for name, (_, *later) in took.items():
        walls = [one.wall_s for one in later]
        cpu_s = np.median([one.cpu_s for one in later])
        table.add_row(name, f"{np.median(walls):.2f}", f"{max(walls):.2f}", f"{cpu_s:.2f}")
    _console.print(table)


def bench_rebuild(num_clips: int = 20_000) -> None:
    """A site's search index made anew from its logs."""
    projection = LanceProjection()
    with _site() as view:
        for start in range(0, num_clips, 2_000):
            log_wave(view.log, f"w{start // 2_000:04d}", 2_000, width=_WIDTH)
        with _timed() as first:
            projection.catch_up(view)
        with _timed() as again:
            done = projection.rebuild(view)
    table = _table("Lance table from the logs", "", "clips", "wall s", "CPU s", "clips/s")
    for name, each in (("first time", first()), ("rebuild", again())):
        table.add_row(
            name,
            f"{done.num_rows:,}",
            f"{each.wall_s:.2f}",
            f"{each.cpu_s:.2f}",
            f"{done.num_rows / each.wall_s:,.0f}",
        )
    _console.print(table)


def bench_requests(num_clips: int = 1_000, num_waves: int = 4) -> None:
    """Requests to an S3 store for a thousand clips in a few waves, by what they are for."""
    projection = LanceProjection()
    with _counted_s3() as (options, counts), tempfile.TemporaryDirectory() as scratch:
        secrets = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), f"env:{_KEY}")
        store = SiteStore(url="s3://bench/site", options=options, secrets=secrets)
        log = SiteLog(store=store, mirror=f"{scratch}/mirror")
        view = SiteView(Site("bench", ("*",), store.url), store, log, {}, Path(scratch))
        rows = []
        for number in range(num_waves):
            counts.clear()
            log_wave(view.log, f"w{number:04d}", num_clips // num_waves, width=64)
            rows.append(("append to the log", Counter(counts)))
            counts.clear()
            projection.catch_up(view)
            rows.append(("catch up", Counter(counts)))
        counts.clear()
        projection.catch_up(view)
        idle = Counter(counts)
        counts.clear()
        projection.maintain(view)
        upkeep = Counter(counts)
    table = _table(
        f"Requests for {num_clips:,} clips in {num_waves} waves", "", "writes", "reads", "lists"
    )
    for name in ("append to the log", "catch up"):
        table.add_row(name, *_spoken(sum((c for n, c in rows if n == name), Counter())))
    table.add_row("catch up, nothing new", *_spoken(idle))
    table.add_row("maintain", *_spoken(upkeep))
    _console.print(table)


def bench_search(num_rows: int) -> None:
    """Filtered vector search among many clips, against comparing everything."""
    with tempfile.TemporaryDirectory(prefix="worldloop-bench-") as folder:
        index = ClipIndex(uri=f"{folder}/lance")
        with _timed() as writing:
            index.overwrite(_MODEL, _index_parts(num_rows))
        with _timed() as indexing:
            for column in ("city", "institution", "status", "wave"):
                index_advisor.build_scalar(index, _MODEL, column, "bitmap")
            index_advisor.build_scalar(index, _MODEL, "recipe_id", "btree")
            lance_upkeep.ensure_word_index(index, _MODEL)
        with _timed() as building:
            index_advisor.build(index, _MODEL, settings("ivf_rq")[1])
        table = _table(f"Making {num_rows:,} x {_WIDTH}", "", "wall s", "CPU s")
        for name, took in (
            ("write", writing()),
            ("scalar and word indices", indexing()),
            ("IVF_RQ", building()),
        ):
            table.add_row(name, f"{took.wall_s:.1f}", f"{took.cpu_s:.1f}")
        _console.print(table)
        _search_table(index, num_rows)


def _search_table(index: ClipIndex, num_rows: int) -> None:
    nothing = pl.DataFrame(schema=dict(records.QUERIES.columns))
    queries, _ = index_advisor.sampled(index, _MODEL, nothing)
    table = _table(
        f"Search for 10 among {num_rows:,} x {_WIDTH}, {len(queries)} queries",
        "filter",
        "rows",
        "ask",
        "recall@10",
        "p50 ms",
        "p95 ms",
        "CPU ms",
    )
    conditions = {
        "none": "",
        "90 %": "status = 'accepted'",
        "18 %": "institution = 'institution2' AND status = 'accepted'",
        "1 %": "city = 'city7'",
        "0.2 %": "city = 'city7' AND institution = 'institution3'",
        "0.1 %": "wave = 'w00007'",
    }
    for name, condition in conditions.items():
        asked = [Query(query.vector, condition) for query in queries]
        true = nearest_scores(index.dataset(_MODEL), asked)
        for how in settings("ivf_rq")[:3]:
            found = _asked(index, asked, true, how)
            table.add_row(
                name,
                f"{index.count(condition or None, model_id=_MODEL):,}",
                f"{how.num_probes}/{how.refine}",
                *found,
            )
    _console.print(table)


def _asked(
    index: ClipIndex, queries: list[Query], true: list[list[float]], how: VectorIndex
) -> tuple[str, ...]:
    """Recall, median and 95th percentile of latency, and CPU of one way to ask."""
    index.ask_like(_MODEL, how)

    def ask(query: Query) -> list[float]:
        where = query.condition or None
        found = index.search(
            query.vector, limit=10, model_id=_MODEL, where=where, columns=["recipe_id", "city"]
        )
        return found["score"].to_list()

    for query in queries[:3]:
        ask(query)
    recalls, wall_ms = [], []
    with _timed() as all_of_them:
        for query, scores in zip(queries, true, strict=True):
            with _timed() as each:
                found = ask(query)
            wall_ms.append(each().wall_s * 1000)
            recalls.append(index_advisor.recall_of(found, scores))
    return (
        f"{np.mean(recalls):.3f}",
        f"{np.median(wall_ms):.1f}",
        f"{np.percentile(wall_ms, 95):.1f}",
        f"{all_of_them().cpu_s / len(queries) * 1000:.1f}",
    )


def log_wave(log: SiteLog, wave: str, num_clips: int, *, width: int) -> None:
    """Append an invented wave, complete as a real one is when it is logged."""
    number = pl.int_range(num_clips, dtype=pl.Int32, eager=True)
    ids = [f"{wave}-{i:08d}".ljust(32, "0") for i in number]
    shard = {
        "wave": wave,
        "index": number,
        "city": [f"city{i % _CITIES}" for i in number],
        "institution": [f"institution{i % _INSTITUTIONS}" for i in number],
        "recipe_id": ids,
        "scene_id": ids,
        "content_sha256": [each.ljust(64, "0") for each in ids],
        "model_id": _MODEL,
        "status": "unique",
    }
    facts = {"hour": 12.0, "sun_elevation_deg": 40.0, "weather": "clear", "season": "spring"}
    vectors = stream("bench", wave).standard_normal((num_clips, width)).astype(np.float32)
    log.append("scenes", _rows(records.SCENES, shard | {"scene": canonical_json(facts).decode()}))
    log.append("captions", _rows(records.CAPTIONS, shard))
    clips = _rows(records.CLIPS, shard)
    log.append("clips", clips)
    signals = _rows(records.SIGNALS, shard)
    log.append("signals", signals)
    log.append("vectors", _rows(records.VECTORS, shard | {"vector": vectors.tolist()}))
    log.append("lineage", lineage(clips, records.GENERATIONS.empty()))
    log.append("scores", signals.select(list(records.SCORES.columns)))
    log.append("duplicates", _rows(records.DEDUP, shard))


def _rows(table: Format, known: dict[str, Any]) -> pl.DataFrame:
    """Rows of a table: what is known, and something of the right type elsewhere."""
    num = len(known["index"])
    columns = {}
    for name, of_type in table.columns.items():
        value = known[name] if name in known else [_anything(of_type)] * num
        values = value if isinstance(value, list | pl.Series) else [value] * num
        columns[name] = pl.Series(name, values, of_type, strict=False)
    return table.conform(pl.DataFrame(columns))


def _anything(of_type: Any) -> object:
    if of_type == pl.String:
        return "invented for a measurement"
    if of_type == pl.Boolean:
        return True
    if isinstance(of_type, pl.Datetime):
        return _MOMENT
    return [] if isinstance(of_type, pl.List) else 1


def _index_parts(num_rows: int) -> Iterator[pl.DataFrame]:
    """Index rows whose vectors lie around centres, and whose places say nothing of the vectors."""
    random = stream("bench", "vectors")
    centres = _unit(random.standard_normal((_CENTRES, _WIDTH)).astype(np.float32))
    for start in range(0, num_rows, _AT_ONCE):
        number = np.arange(start, min(start + _AT_ONCE, num_rows))
        steps = random.standard_normal((len(number), _WIDTH)).astype(np.float32)
        near = centres[random.integers(_CENTRES, size=len(number))]
        vectors = _unit(near + steps * np.float32(_SPREAD / _WIDTH**0.5))
        known = {
            "recipe_id": [f"{i:032x}" for i in number],
            "model_id": [_MODEL] * len(number),
            "wave": [f"w{i // 1000:05d}" for i in number],
            "city": [f"city{i % _CITIES}" for i in number],
            "institution": [f"institution{i // _CITIES % _INSTITUTIONS}" for i in number],
            "status": ["accepted" if i % 10 else "rejected" for i in number],
            "caption": [f"invented street {i}" for i in number],
            "index": number.astype(np.int32),
            "duration_s": np.full(len(number), 2.0),
        }
        rows = pl.DataFrame(known)
        whole = [pl.lit(None).alias(c) for c in INDEX_COLUMNS if c not in known and c != "vector"]
        flat = pl.Series("vector", vectors, pl.Array(pl.Float32, _WIDTH)).cast(pl.List(pl.Float32))
        yield rows.with_columns(*whole, flat).select(INDEX_COLUMNS)


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@contextlib.contextmanager
def _site() -> Iterator[SiteView]:
    with tempfile.TemporaryDirectory(prefix="worldloop-bench-") as folder:
        store = SiteStore(url=f"{folder}/site")
        site = Site("bench", ("*",), store.url)
        yield SiteView(site, store, SiteLog(store=store), {}, Path(folder) / "scratch")


@contextlib.contextmanager
def _counted_s3() -> Iterator[tuple[dict[str, str], Counter[str]]]:
    """An S3 server in this process that counts what it is asked."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counts: Counter[str] = Counter()
    application = DomainDispatcherApplication(create_backend_app)

    def counting(environ: dict[str, Any], start: Any) -> Any:
        verb, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        is_list = verb == "GET" and "list-type" in query
        counts["list" if is_list else "read" if verb in ("GET", "HEAD") else "write"] += 1
        return application(environ, start)

    server = make_server("127.0.0.1", 0, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {
        "aws_endpoint": f"http://127.0.0.1:{server.server_port}",
        "aws_region": "us-east-1",
        "allow_http": "true",
    }
    os.environ[_KEY] = "bench"
    bucket = urllib.request.Request(f"{options['aws_endpoint']}/bench", method="PUT")
    urllib.request.urlopen(bucket, timeout=30).close()
    counts.clear()
    try:
        yield options, counts
    finally:
        server.shutdown()


def _spoken(counts: "Counter[str]") -> list[str]:
    return [f"{counts[verb]:,}" for verb in ("write", "read", "list")]


@contextlib.contextmanager
def _timed() -> Iterator[Callable[[], Timed]]:
    """Gives a question that is answered once the block has ended."""
    took: list[Timed] = []
    wall, cpu = time.perf_counter(), _cpu_s()
    yield lambda: took[0]
    took.append(Timed(time.perf_counter() - wall, _cpu_s() - cpu))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title)


if __name__ == "__main__":
    main()
