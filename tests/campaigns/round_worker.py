"""A process that does one step of a round with real trainers, and dies at a named moment of it.

Moments, each as `name`, or `name*n` for the n-th time:

- `start`: before anything is done;
- `fetch`: a clip is about to be read from a pack;
- `train.loaded`, `train.encoding`, `train.step`, `measure.started`, ...: the trainer has told of that;
- `write.before`, `write.after`: around a write to a store, whichever;
- what `resources.failpoints` names, e.g. `site_delta.before_send`.
"""

import hashlib
import io
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import dagster as dg
import numpy as np
import polars as pl

import assets.round_plan
import assets.site_delta
import orchestration.definitions  # noqa: F401 - imported once, by the process that workers are forked from
import resources.checkpoint_registry
import resources.round_verdicts
from resources import failpoints
from resources.job_launcher import JobLauncher
from resources.site_store import SiteStore
from resources.trainers import Trainers
from resources.world_models import WorldModels
from tests import rows
from tests.assets import rounds as federation_of_three
from tests.assets.rounds import LOOSE, MODEL, MadeUpRounds
from tests.conftest import QUIET
from worldloop.records import CAPTIONS, MANIFEST

ROUND = "r0001"
WORKER, TRAINER = "worker", "trainer"
HOMES = {"aws": ("tokyo", "rome"), "azure": ("paris", "cairo"), "gcp": ("lima", "berlin")}
HELD_OUT = ("berlin", "cairo", "rome")
SITES = "[sites.local]\ncities = []\nstore = 'site'\n" + "".join(
    f"[sites.{name}]\ncities = {[*cities]}\nstore = 'sites/{name}'\n"
    for name, cities in HOMES.items()
)
NUM_STEPS = 4
WEEK_S = 604_800.0  # longer than any campaign: deadlines are met by putting the clock ahead
TRAINING: Mapping[str, Any] = {
    **federation_of_three.TRAINING,
    "num_steps": NUM_STEPS,
    "num_frames": 9,
    "width_px": 64,
    "height_px": 48,
    "rate_fps": 24,
    "learning_rate": 1e-3,
}


@dataclass(frozen=True)
class Task:
    """One step of a round, and how it dies.

    Attributes:
        home: Folder of the federation.
        trainers: Folder of the trainers' sockets; several homes may share them.
        job: Name of the job.
        partition: Its partition.
        config: Of the run.
        tags: Of the run.
        moment: At which somebody is killed; empty: nobody is.
        victim: `worker`, this process; or `trainer`, the process group of the site's trainer.
        always: Whether the trainer is killed each time from then on, so that the retry dies as well.
        at: What the clock says to what writes a moment down; empty: the time.
        ahead_s: The clock of deadlines is so far ahead.
        count_path: File that gets the names of all moments, a line each, when the step has ended; empty: none.
    """

    home: str
    trainers: str
    job: str
    partition: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    moment: str = ""
    victim: str = WORKER
    always: bool = False
    at: str = ""
    ahead_s: float = 0.0
    count_path: str = ""


def work(task: Task) -> None:
    """Do the step, in a process group of its own; exit code 1 if its run failed."""
    os.setsid()
    os.environ["OMP_NUM_THREADS"] = "1"
    said = os.open(Path(task.home) / "workers.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(said, 1), os.dup2(said, 2)
    moments = Moments(task)
    _set_clocks(task)
    moments("start")
    with dg.DagsterInstance.ephemeral() as instance:
        house = RealRounds(Path(task.home), instance)
        house.resources["trainers"] = trainers_in(task.trainers)
        instance.add_dynamic_partitions("round", [ROUND])
        job = house.definitions().resolve_job_def(task.job)
        ended = job.execute_in_process(
            instance=instance,
            partition_key=task.partition,
            run_config={**QUIET, **task.config},
            tags=dict(task.tags),
            raise_on_error=False,
        )
        for event in ended.all_events:
            if event.is_failure:
                os.write(
                    2, f"{task.partition} {event.message} {event.event_specific_data}\n".encode()
                )
    moments.write_down()
    os._exit(0 if ended.success else 1)  # what was forked with it is not this process's to end


class Moments:
    """Counts moments, and kills at the one that was asked for."""

    def __init__(self, task: Task):
        self.task, self.reached, self.trainer = task, list[str](), 0
        name, _, times = task.moment.partition("*")
        self.name, self.times = name, int(times or 1)
        failpoints.watch(self)
        for verb in ("put", "create", "put_file"):
            setattr(SiteStore, verb, _between(getattr(SiteStore, verb), self))
        SiteStore.get_range = _before_reading(SiteStore.get_range, self)
        Trainers.run = _telling(Trainers.run, self)

    def __call__(self, name: str) -> None:
        """A moment has come."""
        self.reached.append(name)
        count = self.reached.count(name)
        if name == self.name and (count == self.times or (self.task.always and count > self.times)):
            self._kill()

    def write_down(self) -> None:
        """For who wants to die at each of them."""
        if self.task.count_path:
            Path(self.task.count_path).write_text("\n".join(self.reached), encoding="utf-8")

    def _kill(self) -> None:
        if self.task.victim == TRAINER:
            os.killpg(self.trainer, signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def _between(write: Callable[..., Any], moments: Moments) -> Callable[..., Any]:
    def watched(store: SiteStore, *args: Any, **more: Any) -> Any:
        moments("write.before")
        answer = write(store, *args, **more)
        moments("write.after")
        return answer

    return watched


def _before_reading(read: Callable[..., Any], moments: Moments) -> Callable[..., Any]:
    def watched(store: SiteStore, *args: Any, **more: Any) -> Any:
        moments("fetch")
        return read(store, *args, **more)

    return watched


def _telling(run: Callable[..., Any], moments: Moments) -> Callable[..., Any]:
    """`Trainers.run`, which makes a moment of each event; resources are made anew for a run, so no subclass."""

    def watched(trainers: Trainers, site: str, command: str, spec: Any, **more: Any) -> Any:
        on_event = more.pop("on_event", None)

        def told(event: Mapping[str, Any]) -> None:
            moments.trainer = event.get("pid", moments.trainer)
            moments(f"{command}.{event['event']}")
            if on_event is not None:
                on_event(event)

        return run(trainers, site, command, spec, on_event=told, **more)

    return watched


def trainers_in(folder: str) -> Trainers:
    """Trainers that end by themselves, should nobody stop them."""
    return Trainers(folder=folder, idle_s=180.0, wait_s=30.0, env={"OMP_NUM_THREADS": "1"})


@dataclass
class RealRounds(MadeUpRounds):
    """A federation of three folders with small real videos, real trainers and real jobs."""

    def __post_init__(self) -> None:
        with patch.object(federation_of_three, "SITES", SITES):
            super().__post_init__()
        self.resources["trainers"] = trainers_in(str(self.root / "trainers"))
        checkpoints = str((self.root / "checkpoints").resolve())  # all copies share one
        self.resources["world_models"] = WorldModels(checkpoint_dir=checkpoints)
        self.resources["launcher"] = JobLauncher(env={"OMP_NUM_THREADS": "1"})

    def film(self, wave: str = "w0001") -> None:
        """A released wave: two clips of each city."""
        with patch.object(federation_of_three, "HOMES", HOMES):
            super().film(wave)

    def plan_config(self, **changes: Any) -> dict[str, Any]:
        """Config of `round_plan`: every site, two prompts, gates that a random model can pass."""
        trial = {"held_out_cities": [*HELD_OUT], "num_prompts": 2, "noise_levels": 1}
        asked = {
            "model": MODEL,
            "training": dict(TRAINING),
            "terms": {"quorum": 2, "deadline_s": WEEK_S, "scores_deadline_s": WEEK_S},
            "trial": {**trial, "sample_steps": 2, "limits": LOOSE},
            **changes,
        }
        return {"ops": {"round_plan": {"config": asked}}}

    def _film(self, site: str, city: str, wave: str) -> pl.DataFrame:
        packed, content = pack_of_videos(rows.clips(range(2), wave=wave, city=city))
        self.federation.store(site).put(packed["pack_key"][0], content)
        log = self.federation.log(site)
        log.append("clips", packed)
        words = pl.format("square {} of {}", pl.col("recipe_id"), pl.lit(city))
        told = packed.with_columns(caption=words, prose=pl.lit("long"))
        log.append("captions", CAPTIONS.conform(told.select(list(CAPTIONS.columns))))
        released = told.with_columns(site=pl.lit(site), offset=pl.lit(0))
        return MANIFEST.conform(released.select(list(MANIFEST.columns)))


def pack_of_videos(clips: pl.DataFrame) -> tuple[pl.DataFrame, bytes]:
    """The clips with the places and hashes of real videos, and the pack that holds them."""
    content = bytearray()
    members = clips["members"].to_list()
    for each in (member for row in members for member in row):
        name = str(each["name"])
        data = moving_square(name) if name.endswith(".mp4") else name.encode()
        each |= {
            "offset": len(content),
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        content += data
    return clips.with_columns(members=pl.Series(members, dtype=clips["members"].dtype)), bytes(
        content
    )


def moving_square(name: str) -> bytes:
    """A video of nine frames of 64 x 48 px; its colour follows from the name."""
    digest = hashlib.sha256(name.encode()).digest()
    held = io.BytesIO()
    with av.open(held, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for time in range(9):
            frame = np.full((48, 64, 3), 30, np.uint8)
            frame[8:28, 4 + 3 * time : 24 + 3 * time] = np.frombuffer(digest[:3], np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return held.getvalue()


def clock(ahead_s: float, fixed: str = "") -> type[datetime]:
    """A clock that is ahead, or stands."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            if fixed:
                return datetime.fromisoformat(fixed)
            return datetime.now(tz or UTC) + timedelta(seconds=ahead_s)

    return Clock


def _set_clocks(task: Task) -> None:
    """What writes a moment into a file gets the one asked for, so that bytes can be compared."""
    assets.site_delta.datetime = clock(task.ahead_s)  # type: ignore[attr-defined]
    if task.at:
        for module in (assets.round_plan, resources.round_verdicts):
            module.now_text = lambda: task.at  # type: ignore[attr-defined]
        resources.checkpoint_registry.datetime = clock(0.0, task.at)  # type: ignore[attr-defined]


def lay_out(home: Path) -> None:
    """A home with a released wave and the tiny random model, to be copied."""
    home.mkdir(parents=True)
    shared = home.with_name("checkpoints")
    shared.mkdir()
    (home / "checkpoints").symlink_to(shared)
    with dg.DagsterInstance.ephemeral() as instance:
        house = RealRounds(home, instance)
        house.film()
        house.make_model()
