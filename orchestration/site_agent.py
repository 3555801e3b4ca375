"""The site agent: carries one site through open rounds, without a Dagster deployment at the site.

    worldloop site-agent --site aws

While it waits, it is a small process that imports neither Dagster nor polars nor torch, and lists the coordinator's
rounds. What is due is done in a process of its own (`orchestration.site_work`), by the same assets and
with the same files as a run in the UI, so that either may do it: the first delta stands. It keeps nothing
in memory that matters; killed anywhere, it goes on when it is started again.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import obstore

from resources.store_client import opened
from resources.store_refusals import refusals
from worldloop import layout
from worldloop.errors import JobFailedError, MalformedRecordError, UnknownKeyError, WorldloopError

DELTA_STEP, SCORES_STEP = "delta", "scores"
# as in worldloop.federation, whose modules an idle agent does not import
_DELTA, _MASKED_PHASE = "delta.bin", 3
PHASE_FILES = {1: "secure-1.json", 2: "secure-2.json", _MASKED_PHASE: _DELTA, 4: "secure-4.json"}
_WORK = "orchestration.site_work"
_ADDRESS = "address"
_LONGEST_PAUSE_S = 600.0
_GRACE_S = 30.0  # for a trainer to save its state at the end of a step
_MOST_LOG_BYTES = 8 << 20

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """What is due.

    Attributes:
        round: Key of the round.
        name: `delta` or `scores`.
        phase: Of a secure round, which comes back to a site once a phase; else 0.
    """

    round: str
    name: str
    phase: int = 0


@dataclass(frozen=True)
class Address:
    """Where the coordinator's store is, and where this agent writes its log.

    Attributes:
        url: Of the store.
        options: Of its client.
        secrets: Secret options, each with where it is kept.
        sites: Names of all sites.
        log_folder: Folder for what the work says.
        environment: Variables that the deployment adds.
    """

    url: str
    options: Mapping[str, str]
    secrets: Mapping[str, str]
    sites: tuple[str, ...]
    log_folder: str
    environment: Mapping[str, str]


@dataclass
class RoundFiles:
    """Which files of the rounds there are, by listings alone; plans are read once.

    Attributes:
        address: Of the store.
    """

    address: Address
    _plans: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)

    def open_rounds(self) -> dict[str, tuple[Mapping[str, Any], frozenset[str]]]:
        """Plan and names of the files of every round that has a plan and no outcome, oldest first.

        Raises:
            StoreError: If the store cannot be listed.
            MalformedRecordError: If a plan is no JSON object with sites.
        """
        found = {}
        for key in self._keys():
            names = self._names(key)
            if "outcome.json" in names:
                self._over.add(key)
                self._plans.pop(key, None)
            elif "plan.json" in names:
                found[key] = self._plan(key), names
        return found

    def _keys(self) -> list[str]:
        with self._asking(layout.ROUNDS) as backend:
            listed = obstore.list_with_delimiter(backend, prefix=f"{layout.ROUNDS}/")
        keys = {prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in listed["common_prefixes"]}
        return sorted(keys - self._over, key=lambda key: (len(key), key))

    def _names(self, key: str) -> frozenset[str]:
        prefix = f"{layout.ROUNDS}/{key}/"
        with self._asking(prefix) as backend:
            pages = list(obstore.list(backend, prefix=prefix))
        return frozenset(item["path"].removeprefix(prefix) for page in pages for item in page)

    def _plan(self, key: str) -> Mapping[str, Any]:
        if key not in self._plans:
            path = layout.round_plan_key(key)
            with self._asking(path) as backend:
                content = bytes(obstore.get(backend, path).bytes())
            try:
                record = json.loads(content)
                self._plans[key] = {
                    "sites": tuple(record["sites"]),
                    "max_staleness": int(record["terms"]["max_staleness"]),
                    "secure": bool(record["aggregation"]["secure"]),
                }
            except (ValueError, KeyError, TypeError) as error:
                raise MalformedRecordError(
                    f"plan of round {key}",
                    f"{len(content)} bytes",
                    "a round plan",
                    "Restore the coordinator's store from its backup.",
                ) from error
        return self._plans[key]

    @contextlib.contextmanager
    def _asking(self, key: str) -> Any:
        address = self.address
        client = opened(address.url, dict(address.options), dict(address.secrets))
        with refusals(address.url, key, places=address.secrets, secrets=client.secrets):
            yield client.backend


def due_at(site: str, plan: Mapping[str, Any], names: Collection[str]) -> str | None:
    """What an open round wants of a site now; None if nothing.

    Args:
        site: Whose part.
        plan: `sites`, `max_staleness` and `secure` of the round's plan.
        names: Of the round's files, beneath the round's folder.
    """
    if site not in plan["sites"]:
        return None
    decided = "adapter/participants.json" in names
    if plan["secure"]:
        owes = not decided and _owes_phase(site, names)
    else:
        sent = f"sites/{site}/{_DELTA}" in names
        owes = not sent and (not decided or bool(plan["max_staleness"]))
    if owes:
        return DELTA_STEP
    has_adapter = {"adapter/adapter.json", "adapter/adapter.safetensors"} <= set(names)
    judged = "evaluation.json" in names
    if has_adapter and not judged and f"sites/{site}/scores.json" not in names:
        return SCORES_STEP
    return None


def open_phase(plan: Mapping[str, Any], names: Collection[str]) -> int:
    """The phase that a secure round is in; 0 of another round.

    Args:
        plan: As in `due_at`.
        names: As in `due_at`.
    """
    if not plan["secure"]:
        return 0
    ended = [phase for phase in PHASE_FILES if f"secure/roster-{phase}.json" in names]
    return 1 + max(ended, default=0)


def _owes_phase(site: str, names: Collection[str]) -> bool:
    """Whether a site has not sent what the open phase of a secure round asks of it."""
    phase = open_phase({"secure": True}, names)
    of_site = {name for name in PHASE_FILES.values() if f"sites/{site}/{name}" in names}
    is_silent = phase < _MASKED_PHASE and _DELTA in of_site  # it said that it has no clips
    return phase in PHASE_FILES and PHASE_FILES[phase] not in of_site and not is_silent


class SiteAgent:
    """Watches the rounds of one site and has done what is due.

    Args:
        site: Whose.
        poll_s: Seconds between two looks at the coordinator's store.
        address: Says where that store is; asked again after every failed look, as the sites file may change.
        work: Does a step; raises a `WorldloopError` if it could not.
    """

    def __init__(
        self,
        site: str,
        *,
        poll_s: float = 10.0,
        address: Callable[[], Address] | None = None,
        work: Callable[[Step, Address], None] | None = None,
    ) -> None:
        self.site, self.poll_s = site, poll_s
        self._ask_address = address or ask_address
        self._work = work or self._work_in_child
        self._files: RoundFiles | None = None
        self._stopped = threading.Event()
        self._done: set[Step] = set()
        self._pauses: dict[Step | None, tuple[float, float]] = {}  # length, and when it ends

    def run(self) -> None:
        """Look and work until it is stopped."""
        log.info("%s: watching for rounds every %g s", self.site, self.poll_s)
        while not self._stopped.is_set():
            self.once()
            paused_s = self._pauses.get(None, (0.0, 0.0))[0]
            self._stopped.wait(max(self.poll_s, paused_s))
        log.info("%s: stopped", self.site)

    def stop(self) -> None:
        """End at the next safe moment; work that is under way is told to save its state."""
        self._stopped.set()

    def once(self) -> bool:
        """One look, and everything that is due now.

        Returns:
            Whether all went well.
        """
        try:
            steps = self.due()
        except WorldloopError as error:
            self._files = None
            self._pause(None, error)
            return False
        self._pauses.pop(None, None)
        went_well = True
        for step in steps:
            if self._stopped.is_set():
                break
            went_well = self._do(step) and went_well
        return went_well

    def due(self) -> list[Step]:
        """What is due and neither done nor paused after a failure, oldest round first.

        Raises:
            WorldloopError: If the coordinator's store cannot be looked at.
        """
        if self._files is None:
            address = self._ask_address()
            if self.site not in address.sites:
                raise UnknownKeyError("site", self.site, address.sites)
            os.environ.update(address.environment)
            self._files = RoundFiles(address)
        open_rounds = self._files.open_rounds()
        wanted = [
            Step(key, name, open_phase(plan, names) if name == DELTA_STEP else 0)
            for key, (plan, names) in open_rounds.items()
            if (name := due_at(self.site, plan, names)) is not None
        ]
        self._done = {step for step in self._done if step.round in open_rounds}
        now_s = time.monotonic()
        return [
            step
            for step in wanted
            if step not in self._done and self._pauses.get(step, (0.0, 0.0))[1] <= now_s
        ]

    def _do(self, step: Step) -> bool:
        assert self._files is not None
        log.info("%s: %s of %s begins", self.site, step.name, step.round)
        began_s = time.monotonic()
        try:
            self._work(step, self._files.address)
        except WorldloopError as error:
            if not self._stopped.is_set():
                self._pause(step, error)
            return False
        self._done.add(step)
        self._pauses.pop(step, None)
        took_s = time.monotonic() - began_s
        log.info("%s: %s of %s is done, %.1f s", self.site, step.name, step.round, took_s)
        return True

    def _pause(self, step: Step | None, error: WorldloopError) -> None:
        """Say what went wrong in one line, and wait longer with every time."""
        before_s = self._pauses.get(step, (self.poll_s / 2, 0.0))[0]
        pause_s = min(2 * before_s, _LONGEST_PAUSE_S)
        self._pauses[step] = (pause_s, time.monotonic() + pause_s)
        what = f"{step.name} of {step.round}" if step else "rounds"
        words = " ".join(str(error).split())
        log.warning("%s: %s: %s Again in %g s.", self.site, what, words, pause_s)

    def _work_in_child(self, step: Step, address: Address) -> None:
        log_path = Path(address.log_folder) / f"{self.site}.log"
        work_in_child(step, self.site, log_path=log_path, stopped=self._stopped)


def ask_address() -> Address:
    """Where the coordinator's store is, by this deployment's settings; asked in a process of its own.

    Raises:
        JobFailedError: With what is wrong with the settings.
    """
    told = _answer_of([_ADDRESS], None, threading.Event())
    return Address(**{**told, "sites": tuple(told["sites"])})


def work_in_child(
    step: Step,
    site: str,
    *,
    log_path: Path | None = None,
    stopped: threading.Event | None = None,
    parcel: Path | None = None,
) -> None:
    """Do a step in a process of its own, which is gone afterwards.

    Args:
        step: What is due.
        site: Whose.
        log_path: Gets what it says; None: this process's stderr.
        stopped: When it is set, the work is told to save its state and end.
        parcel: As in `orchestration.site_work.do_step`.

    Raises:
        JobFailedError: With the one line of what went wrong.
    """
    arguments = [step.name, "--site", site, "--round", step.round]
    if parcel is not None:
        arguments += ["--parcel", str(parcel)]
    _answer_of(arguments, log_path, stopped or threading.Event())


def _answer_of(
    arguments: list[str], log_path: Path | None, stopped: threading.Event
) -> dict[str, Any]:
    """What the working process answers.

    Raises:
        JobFailedError: If it answers with an error, or not at all.
    """
    with contextlib.ExitStack() as held:
        said = held.enter_context(_log_file(log_path)) if log_path else None
        answered = held.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            [sys.executable, "-m", _WORK, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=answered,
            stderr=said,
            start_new_session=True,  # Ctrl-C reaches it through `stopped` alone
        )
        try:
            code = _wait(process, stopped)
        finally:
            if process.poll() is None:  # it did not end when it was asked to
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        answered.seek(0)
        lines = answered.read().decode(errors="replace").split("\n")
    answer = _json_object(next((line for line in reversed(lines) if line), ""))
    if code == 0 and answer and "error" not in answer:
        return answer
    words = answer.get("error") or (
        f"The process ended with code {code} and no answer; expected one. Its own words are in "
        f"{str(log_path) if log_path else 'the log above'}."
    )
    raise JobFailedError(str(words))


def _wait(process: "subprocess.Popen[bytes]", stopped: threading.Event) -> int:
    """Its exit code; it is asked to end when this agent is stopped."""
    while not stopped.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_GRACE_S)
    return -signal.SIGKILL


def _log_file(path: Path) -> Any:
    """The file to write to; a long one is begun anew, one old file is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _MOST_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")


def _json_object(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    return {}


def main() -> int:
    """Run the agent until Ctrl-C or SIGTERM; with `--once`, look once."""
    parser = argparse.ArgumentParser(prog="worldloop site-agent", description="The site agent.")
    parser.add_argument("--site", required=True, help="Name of the site in sites.toml.")
    parser.add_argument("--once", action="store_true", help="Look once, do what is due, end.")
    parser.add_argument("--poll-s", type=float, default=10.0, help="Seconds between two looks.")
    asked = parser.parse_args()
    if not 0 < asked.poll_s <= _LONGEST_PAUSE_S:
        parser.error(f"--poll-s {asked.poll_s:g} is not between 0 and {_LONGEST_PAUSE_S:g}")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    agent = SiteAgent(asked.site, poll_s=asked.poll_s)

    def end(number: int, frame: FrameType | None) -> None:
        agent.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    if asked.once:
        return 0 if agent.once() else 1
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
