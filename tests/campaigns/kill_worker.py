"""A process that appends to a site's logs and projects them until it is killed.

Whatever an append has acknowledged is written to a file at once, one line an id, with a plain write
that outlives the process; what stands there must never be lost.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from resources import failpoints
from resources.federation import Federation
from resources.iceberg_projection import IcebergProjection
from resources.lance_projection import LanceProjection
from resources.projection import Projection
from resources.site_view import SiteView
from tests import rows
from worldloop.errors import LeaseHeldError
from worldloop.records import LINEAGE, SCORES

LEASE_S = 0.6
ROWS_A_BATCH = 4
FAILPOINTS = tuple(
    ["log.batch_written", "log.claimed"]
    + [
        f"{name}.{moment}"
        for name in ("iceberg", "lance")
        for moment in ("data_written", "before_commit", "after_commit", "compacting")
    ]
)


@dataclass(frozen=True)
class Task:
    """What one worker does until it is killed.

    Attributes:
        sites_path: The sites file.
        home: Folder of local data.
        site: Which site it writes.
        acked_path: Where acknowledged ids go.
        ready_path: Created when the imports are done and work begins.
        life: Number of this worker at its site; decides rows and order of work.
        seed: Of the campaign's case.
        failpoint: Moment at which it kills itself; empty: somebody else kills it.
        at_time: At which time of that moment, from 1.
        num_steps: It ends by itself after so many.
        environ: Variables of an emulator's secrets; the process it is forked from may be older.
    """

    sites_path: str
    home: str
    site: str
    acked_path: str
    ready_path: str
    life: int
    seed: int
    failpoint: str = ""
    at_time: int = 1
    num_steps: int = 60
    environ: Mapping[str, str] = field(default_factory=dict)

    def view(self) -> SiteView:
        """What the site knows."""
        os.environ.update(self.environ)
        return Federation(sites_path=self.sites_path, home=self.home).view(self.site)


def projections() -> list[Projection]:
    """Both projections, with a lease that a successor need not wait long for."""
    return [LanceProjection(lease_s=LEASE_S), IcebergProjection(lease_s=LEASE_S)]


def work(task: Task) -> None:
    """Append and project in an order that the seed decides."""
    if task.failpoint:
        failpoints.watch(_dying_at(task.failpoint, task.at_time))
    view, rng = task.view(), np.random.default_rng([task.seed, task.life])
    Path(task.ready_path).touch()
    for step in range(task.num_steps):
        choice = rng.random()
        if step == 0 or choice < 0.4:
            append_clips(view, task, step)
        for projection in projections() if choice >= 0.4 else ():
            with contextlib.suppress(LeaseHeldError):  # of a worker that was killed a moment ago
                (projection.catch_up if choice < 0.85 else projection.maintain)(view)


def append_clips(view: SiteView, task: Task, step: int) -> None:
    """A few clips of the worker's own wave with all that belongs to them."""
    where = {"wave": f"w{task.life + 1:04d}", "city": "tokyo"}
    indices = range(step * ROWS_A_BATCH, (step + 1) * ROWS_A_BATCH)
    signals = rows.signals(indices, **where)
    prompts = rows.prompts(indices, **where)
    scenes = prompts.select("wave", "scene_id", "city", "institution").with_columns(
        scene=pl.Series([json.dumps(json.loads(r)["scene"]) for r in prompts["recipe"]])
    )
    captions = prompts.select(
        "wave", "index", "city", "institution", "recipe_id", "caption", "prose"
    )
    tables = {
        "scenes": scenes,
        "captions": captions,
        "clips": rows.clips(indices, **where),
        "signals": signals,
        "vectors": rows.vectors(indices, **where),
        "lineage": rows.lineage(indices, **where).select(list(LINEAGE.columns)),
        "scores": signals.select(list(SCORES.columns)),
        "duplicates": rows.dedup(indices, **where),
    }
    for kind, table in tables.items():
        view.log.append(kind, table)
        _acknowledge(task.acked_path, kind, _ids_of(kind, table))


def _ids_of(kind: str, table: pl.DataFrame) -> list[str]:
    if kind == "scenes":
        return table["scene_id"].to_list()
    if kind == "vectors":
        return (
            table.select(pl.concat_str("recipe_id", "model_id", separator="/"))
            .to_series()
            .to_list()
        )
    return table["recipe_id"].to_list()


def _acknowledge(path: str, kind: str, ids: list[str]) -> None:
    lines = "".join(f"{kind} {name}\n" for name in ids).encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, lines)
    finally:
        os.close(file)


def _dying_at(name: str, at_time: int) -> Any:
    times = 0

    def watcher(reached: str) -> None:
        nonlocal times
        times += reached == name
        if reached == name and times == at_time:
            os.kill(os.getpid(), signal.SIGKILL)

    return watcher


if __name__ == "__main__":
    work(Task(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
