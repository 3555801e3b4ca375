"""Kills writers and projectors of a site, again and again, and counts what was lost or doubled.

Half of the kills come from outside at a random moment, half from inside at a named one. After every
group of kills one undisturbed process brings the projections up to date, and then everything is read
with other libraries than those that wrote: the log by polars, Lance by lancedb, Iceberg by pyiceberg.

    python -m tests.campaigns.kills --store aws --kills 1000 --out kills.jsonl

goes on where an earlier call stopped: a line of the file is a group that is done.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from resources.site_view import SiteView
from tests.campaigns.kill_worker import FAILPOINTS, Task, projections, work
from tests.emulators.clouds import Emulator, running, sites_file
from worldloop.errors import LeaseHeldError
from worldloop.layout import LANCE

KILLS_A_GROUP = 5
_SHARED = ("lineage", "scores", "duplicates")
_READY_S, _END_S = 90.0, 180.0
_LONGEST_LIFE_S = 4.0  # of a worker that somebody else kills, after it was ready


@dataclass(frozen=True)
class Ground:
    """Where a campaign happens.

    Attributes:
        name: `local`, `aws`, `gcp` or `azure`.
        sites_path: A sites file with the one site `home`.
        home: Folder of local data.
        environ: Variables that hold the store's secrets.
    """

    name: str
    sites_path: Path
    home: Path
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a group of kills did.

    Attributes:
        seed: Of the group.
        store: Where.
        num_kills: Processes that were killed.
        num_ended: Processes that ended before their moment came.
        num_acked: Rows that were acknowledged.
        lost: Acknowledged rows that are missing, as `where kind id`.
        doubled: Rows that are there twice, or rows of a projection that no log has.
        moments: Where the kills hit, with their number.
        took_s: Wall seconds.
    """

    seed: int
    store: str
    num_kills: int
    num_ended: int
    num_acked: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    moments: dict[str, int]
    took_s: float

    @property
    def clean(self) -> bool:
        """Whether nothing was lost and nothing doubled."""
        return not self.lost and not self.doubled


def prepare() -> None:
    """Let workers start from a process that has the imports done: a kill costs half a second then."""
    multiprocessing.set_forkserver_preload(["tests.campaigns.kill_worker"])


def run_group(ground: Ground, seed: int, *, num_kills: int = KILLS_A_GROUP) -> Verdict:
    """Kill so many workers at one site, one after the other, and look at what is left.

    Args:
        ground: A site of its own, empty.
        seed: Decides moments, rows and order of work.
        num_kills: Workers.
    """
    begun = time.monotonic()
    task = task_of(ground, seed)
    moments: Counter[str] = Counter()
    num_ended = 0
    for life in range(num_kills):
        moment = _one_death(replace(task, life=life))
        moments[moment] += moment != "ended"
        num_ended += moment == "ended"
    _undisturbed(task)
    lost, doubled = damage(task)
    return Verdict(
        seed,
        ground.name,
        sum(moments.values()),
        num_ended,
        len(_acked(task)),
        tuple(lost),
        tuple(doubled),
        {name: n for name, n in sorted(moments.items()) if n},
        round(time.monotonic() - begun, 1),
    )


def catch_up(task: Task) -> None:
    """Bring every projection up to date; waits for the lease of a worker that was killed."""
    for projection in projections():
        for _ in range(200):
            try:
                projection.catch_up(task.view())
                break
            except LeaseHeldError:
                time.sleep(0.1)


def task_of(ground: Ground, seed: int) -> Task:
    """A worker of a ground, before anybody says how it dies."""
    return Task(
        sites_path=str(ground.sites_path),
        home=str(ground.home),
        site="home",
        acked_path=str(ground.home / "acked"),
        ready_path=str(ground.home / "ready"),
        life=0,
        seed=seed,
        environ=ground.environ,
    )


def live_and_die(task: Task, *, after_s: float | None = None) -> str:
    """Start a worker and see it die, by its own failpoint or after so many seconds of work.

    Returns:
        The failpoint, `random`, or `ended` if it got through.
    """
    worker = _started(task)
    worker.join(_END_S if after_s is None else after_s)
    if worker.exitcode == -9:
        return task.failpoint
    if worker.exitcode is not None:
        return _ended(worker)
    worker.kill()
    worker.join()
    return "random"


def _one_death(task: Task) -> str:
    """The death that the seed decides: by turns from outside and from inside."""
    rng = np.random.default_rng([task.seed, task.life, 1])
    if (task.seed + task.life) % 2:
        moment, times = str(rng.choice(FAILPOINTS)), int(rng.integers(1, 4))
        return live_and_die(replace(task, failpoint=moment, at_time=times))
    return live_and_die(task, after_s=rng.random() * _LONGEST_LIFE_S)


def _started(task: Task) -> Any:
    ready = Path(task.ready_path)
    ready.unlink(missing_ok=True)
    worker = multiprocessing.get_context("forkserver").Process(target=work, args=(task,))
    worker.start()
    deadline = time.monotonic() + _READY_S
    while not ready.exists() and worker.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return worker


def _undisturbed(task: Task) -> None:
    healer = multiprocessing.get_context("forkserver").Process(target=catch_up, args=(task,))
    healer.start()
    healer.join(_END_S)
    if healer.exitcode != 0:
        raise AssertionError(f"catching up after the kills ended with {healer.exitcode}")


def _ended(worker: Any) -> str:
    if worker.exitcode != 0:
        worker.kill()
        raise AssertionError(f"a worker ended with {worker.exitcode} instead of being killed")
    return "ended"


def _acked(task: Task) -> list[tuple[str, str]]:
    path = Path(task.acked_path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(kind, name) for kind, name in (line.split(" ", 1) for line in lines)]


def damage(task: Task) -> tuple[list[str], list[str]]:
    """Rows that are missing, and rows that are there too often."""
    lost, doubled = [], []
    for where, kind, wanted, found in _comparisons(task):
        counts = Counter(found)
        lost += [f"{where} {kind} {name}" for name in sorted(set(wanted) - set(counts))]
        doubled += [f"{where} {kind} {name}" for name, n in sorted(counts.items()) if n > 1]
        if where != "log":  # a log may have rows whose acknowledgement was killed
            doubled += [f"{where} {kind} {name}" for name in sorted(set(counts) - set(wanted))]
    return lost, doubled


def _comparisons(task: Task) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(where, kind, ids that must be there, ids that are there)."""
    view, acked = task.view(), _acked(task)
    in_log = {}
    for kind in sorted({kind for kind, _ in acked}):
        in_log[kind] = _raw_ids(view, kind)
        yield "log", kind, [name for of_kind, name in acked if of_kind == kind], in_log[kind]
    searchable = _searchable(view)
    yield "lance", "vectors", searchable, _ids_in_lance(view)
    tables = _ids_in_iceberg(view)
    for kind in _SHARED:
        if kind in in_log:
            yield "iceberg", kind, in_log[kind], tables.get(kind, [])
    yield "iceberg", "clips", in_log.get("lineage", []), tables.get("clips", [])


def _raw_ids(view: SiteView, kind: str) -> list[str]:
    """Ids of every committed batch, each as often as it stands there; read without our log code."""
    folder = f"logs/{_log_of(kind)}/{kind}"
    listed = [found.key for found in view.store.scan(folder)]
    claims = [key for key in listed if "/claims/" in key]
    ids: list[str] = []
    for claim in claims:
        sha256 = view.store.get(claim).decode()
        key = f"{folder}/{claim.rsplit('/', 1)[1]}-{sha256}.parquet"
        ids += pl.read_parquet(view.store.get(key), columns=["id"])["id"].to_list()
    return ids


def _log_of(kind: str) -> str:
    return "shared" if kind in _SHARED else "private"


def _searchable(view: SiteView) -> list[str]:
    """Clips that have all an index row needs: clip, scene, caption and vector."""
    clips = set(_raw_ids(view, "clips"))
    return [name for name in _raw_ids(view, "vectors") if name.split("/")[0] in clips]


def _ids_in_lance(view: SiteView) -> list[str]:
    import lancedb

    from resources.lance_store import lance_options

    options = lance_options(view.store.url, view.site.options, view.site.secrets)
    database = lancedb.connect(f"{view.store.url}/{LANCE}", storage_options=options or None)
    found: list[str] = []
    for name in database.list_tables().tables:
        rows = database.open_table(name).to_arrow().select(["recipe_id", "model_id"]).to_pylist()
        found += [f"{row['recipe_id']}/{row['model_id']}" for row in rows]
    return found


def _ids_in_iceberg(view: SiteView) -> dict[str, list[str]]:
    from resources.iceberg_catalog import connected

    namespace = view.site.iceberg.namespace
    found = {}
    with connected(view) as catalog:
        for _, name in catalog.list_tables(namespace):
            if name in (*_SHARED, "clips"):
                scan = catalog.load_table((namespace, name)).scan(selected_fields=("recipe_id",))
                found[name] = scan.to_arrow()["recipe_id"].to_pylist()
    return found


@contextlib.contextmanager
def grounds(name: str) -> Iterator[Callable[[], Ground]]:
    """A source of fresh grounds on one store, whose emulator runs until the block ends."""
    with (
        tempfile.TemporaryDirectory(prefix="worldloop-kills-") as folder,
        contextlib.ExitStack() as open_,
    ):
        root = Path(folder)
        numbers = itertools.count()
        if name == "local":
            yield lambda: local_ground(root / str(next(numbers)))
            return
        emulator = open_.enter_context(running(name, root / "emulator"))
        yield lambda: emulated_ground(emulator.fresh_site(), name, root / str(next(numbers)))


def local_ground(home: Path) -> Ground:
    """A site in a folder."""
    return _ground("local", home, '[sites.home]\ncities = ["*"]\nstore = "site"')


def emulated_ground(emulator: Emulator, name: str, home: Path) -> Ground:
    """A site in an emulator's fresh bucket."""
    ground = _ground(name, home, sites_file(emulator, site="home"))
    return replace(ground, environ=dict(emulator.environ))


def _ground(name: str, home: Path, sites: str) -> Ground:
    home.mkdir(parents=True)
    path = home / "sites.toml"
    path.write_text(sites, encoding="utf-8")
    return Ground(name, path, home)


# --- by hand


def main() -> None:
    """Run groups until the wanted number of kills stands in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["local", "aws", "gcp", "azure"], required=True)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    done = (
        [json.loads(line) for line in asked.out.read_text().splitlines()]
        if asked.out.exists()
        else []
    )
    kills = sum(group["num_kills"] for group in done)
    seeds = itertools.count(max((group["seed"] for group in done), default=-1) + 1)
    with grounds(asked.store) as ground, asked.out.open("a", encoding="utf-8") as out:
        while kills < asked.kills:
            verdict = run_group(ground(), next(seeds))
            kills += verdict.num_kills
            record = {**asdict(verdict), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            out.write(json.dumps(record) + "\n")
            out.flush()
            if not verdict.clean:
                raise SystemExit(
                    f"seed {verdict.seed}: lost {verdict.lost}, doubled {verdict.doubled}"
                )


if __name__ == "__main__":
    prepare()
    main()
