"""A federation of three folders whose round is carried by the real sensor, with a process a step that may die.

Time is not waited for: when the sensor only waits, its clock is put ahead to the deadline that it names.
"""

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import psutil

from resources.round_files import (
    RoundStanding,
    read_adapter_record,
    read_outcome,
    standing_of,
)
from sensors import round_conductor
from tests.campaigns.round_worker import (
    HOMES,
    ROUND,
    WORKER,
    RealRounds,
    Task,
    clock,
    lay_out,
    trainers_in,
    work,
)
from tests.sensors.rounds import JOBS, record_run

_END_S, _MOST_TICKS = 300.0, 40
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Kill:
    """One death.

    Attributes:
        step: As the sensor names it, such as `delta/azure` or `adapter`.
        moment: See `tests.campaigns.round_worker`.
        victim: `worker` or `trainer`.
        always: Whether the trainer is killed again whenever it comes there.
        comes_back: Whether the step is run again by a person; else its site is gone for good.
    """

    step: str
    moment: str
    victim: str = WORKER
    always: bool = False
    comes_back: bool = False

    @property
    def site(self) -> str:
        """Whose step it is; empty for the coordinator's."""
        return (*self.step.split("/"), "")[1]

    def __str__(self) -> str:
        again = " each time" if self.always else " and comes back" if self.comes_back else ""
        return f"{self.victim} of {self.step} at {self.moment}{again}"


@dataclass(frozen=True)
class Ended:
    """How a round ended.

    Attributes:
        outcome: `promoted`, `refused` or `failed`.
        reason: Why.
        statuses: Of the sites' deltas.
        scored: Sites whose scores are there.
        adapter_sha256: Of the adapter; empty without one.
        waited_for: Deadlines that were waited for, by the phase of the round.
        num_killed: Processes that died.
        took_s: Wall seconds of the case.
    """

    outcome: str
    reason: str
    statuses: Mapping[str, str]
    scored: tuple[str, ...]
    adapter_sha256: str
    waited_for: tuple[str, ...]
    num_killed: int
    took_s: float


@dataclass
class Ground:
    """Where cases happen: a federation to copy, and trainers that all copies share.

    Attributes:
        root: Folder of everything.
        trainers: Folder of the trainers' sockets.
    """

    root: Path
    trainers: Path
    num_homes: int = 0

    def fresh(self, of: str = "template") -> Path:
        """A copy of a federation; its model is shared."""
        self.num_homes += 1
        home = self.root / f"home{self.num_homes}"
        shutil.copytree(
            self.root / of, home, symlinks=True, ignore=shutil.ignore_patterns("workers.log")
        )
        return home

    def keep(self, home: Path, name: str) -> None:
        """Keep a federation as it is now, to be copied."""
        home.rename(self.root / name)


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A ground; every process that was started in it is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="wlk") as folder, _no_orphans():
        root = Path(folder)
        made = Ground(root, root / "t")
        try:
            in_process(lay_out, root / "template")
            yield made
        finally:
            trainers = trainers_in(str(made.trainers))
            for site in ("local", *HOMES):
                trainers.stop(site)


@contextlib.contextmanager
def _no_orphans() -> Iterator[None]:
    """Trainers and jobs whose worker was killed become children of this process, and are ended with the block."""
    libc = ctypes.CDLL(None)
    before = set(psutil.Process().children(recursive=True))
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        left = set(psutil.Process().children(recursive=True)) - before
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) != os.getsid(0):  # multiprocessing's own helpers stay
                    process.kill()
                    process.wait(10)


def prepare() -> None:
    """Let workers start from a process that has the imports done."""
    multiprocessing.set_forkserver_preload(["tests.campaigns.round_worker"])


def in_process(work: Any, *args: Any) -> int:
    """Exit code of a function that runs in a process of its own; -9 if it was killed."""
    process = multiprocessing.get_context("forkserver").Process(target=work, args=args)
    process.start()
    try:
        process.join(_END_S)
        assert process.exitcode is not None, f"a worker did not end in {_END_S:.0f} s: {args}"
    finally:
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
    return int(process.exitcode)


# --- a round by its sensor


class Round:
    """Carries the round of a home to its outcome, as the sensor asks for it, and lets steps die."""

    def __init__(self, ground: Ground, home: Path, kills: Sequence[Kill] = ()):
        self.ground, self.home = ground, home
        self.kills = {kill.step: kill for kill in kills}
        self.gone: set[str] = set()
        self.waited: list[str] = []
        self.ahead_s, self.num_killed = 0.0, 0

    def plan(self, **changes: Any) -> None:
        """Plan it, in this process."""
        with dg.DagsterInstance.ephemeral() as instance:
            house = RealRounds(self.home, instance)
            instance.add_dynamic_partitions("round", [ROUND])
            house.execute("round_job", ROUND, house.plan_config(**changes))

    def carry(self, *, until: Callable[[RoundStanding], bool] = lambda _: False) -> Ended:
        """Do what the sensor asks for, until the round is over or stands as wanted."""
        begun = time.monotonic()
        with dg.DagsterInstance.ephemeral() as instance:
            house = RealRounds(self.home, instance)
            for _ in range(_MOST_TICKS):
                standing = standing_of(house.store, ROUND)
                if standing.phase == "over" or until(standing):
                    return self._ended(house, time.monotonic() - begun)
                asked = self._tick(house)
                if isinstance(asked, dg.SkipReason):
                    self._wait(house, str(asked.skip_message))
                    continue
                for request in asked.run_requests or ():
                    if not until(standing_of(house.store, ROUND)):
                        self._run(house, request)
        raise AssertionError(f"the round did not end: {self.home}")

    def _tick(self, house: RealRounds) -> Any:
        names = ("delta_job", "phase_job", "adapter_job", "scores_job", "verdict_job")
        sensor = round_conductor.build_round_conductor(*(JOBS[name] for name in names))
        with (
            patch.object(round_conductor, "datetime", clock(self.ahead_s)),
            dg.build_sensor_context(
                instance=house.instance,
                resources={"store": house.store, "federation": house.federation},
                sensor_name="round_conductor",
            ) as context,
        ):
            return sensor(context)

    def _wait(self, house: RealRounds, words: str) -> None:
        """Put the clock to the deadline that the sensor names; one second before it nothing was due."""
        named = words.partition("deadline is ")[2].removesuffix(" UTC")
        assert named, f"it waits for no deadline: {words}"
        at = datetime.fromisoformat(f"{named}+00:00") + timedelta(seconds=1)
        self.waited.append(standing_of(house.store, ROUND).phase)
        now = clock(0.0).now()
        self.ahead_s = (at - now).total_seconds() - 2.0
        assert isinstance(self._tick(house), dg.SkipReason)
        self.ahead_s += 2.0

    def _run(self, house: RealRounds, request: Any) -> None:
        """One run that the sensor asks for; what it dies of is a failed run, as the daemon sees it."""
        step = request.run_key.removeprefix(f"{ROUND}/")
        kill = self.kills.get(step)
        task = self.task(request.job_name, str(request.partition_key), dict(request.tags))
        site = (*step.split("/"), "")[1]
        code = 1
        if site not in self.gone:
            code = self.do(replace(task, **_death(kill)) if kill else task)
            if kill is not None and kill.comes_back:
                code = self.do(task)
            elif kill is not None and code != 0:
                self.gone.add(site)
        status = dg.DagsterRunStatus.SUCCESS if code == 0 else dg.DagsterRunStatus.FAILURE
        record_run(house, request.job_name, str(request.partition_key), status, **request.tags)

    def task(self, job: str, partition: str, tags: Mapping[str, str] | None = None) -> Task:
        """A step of this round."""
        where = (str(self.home), str(self.ground.trainers))
        return Task(*where, job, partition, tags=tags or {}, ahead_s=self.ahead_s)

    def do(self, task: Task) -> int:
        """Run a step; its exit code."""
        code = in_process(work, task)
        self.num_killed += code == -signal.SIGKILL
        return code

    def _ended(self, house: RealRounds, took_s: float) -> Ended:
        outcome, record = read_outcome(house.store, ROUND), read_adapter_record(house.store, ROUND)
        found = record.participation if record else ()
        return Ended(
            outcome.outcome if outcome else "",
            outcome.reason if outcome else "",
            {one.site: one.status for one in found},
            standing_of(house.store, ROUND).scores,
            record.adapter_sha256 if record else "",
            tuple(self.waited),
            self.num_killed,
            round(took_s, 1),
        )


def _death(kill: Kill) -> dict[str, Any]:
    return {"moment": kill.moment, "victim": kill.victim, "always": kill.always}
