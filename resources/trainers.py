"""The warm trainers of this machine: one process per site that keeps its base model loaded."""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from pydantic import Field

from worldloop import errors
from worldloop.errors import JobFailedError, WorldloopError

_MODULE = "gpu_jobs.posttrain.trainer"
_MOST_PATH = 100  # bytes; Linux takes 107 of a socket's path, macOS 103
_ASK_TIMEOUT_S = 5.0
_BUSY = "TrainerBusyError"
_started: list["_Outliving"] = []  # by this process, to be reaped when they have ended

OnEvent = Callable[[Mapping[str, Any]], None]


class TrainerBusyError(WorldloopError):
    """The trainer of a site works for somebody else."""


class _Outliving(subprocess.Popen[bytes]):
    """A process that is meant to run on when this one ends: nobody is warned of it then."""

    def __del__(self) -> None:
        """Nothing: `_started` reaps it, and what is still at work at the end goes to init."""


class Trainers(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Starts, asks and ends the trainers of this machine's sites.

    A trainer is a process of its own that outlives the run that started it and ends when nobody asks
    it for `idle_s`. Its socket and log lie in `folder`; if that path is too long for a socket
    (100 bytes), the socket lies in a folder of this user in the machine's temporary folder.

    Attributes:
        folder: Of sockets, locks and logs, on a local disk; `<site>.log` says what a trainer did.
        idle_s: A trainer ends after so long unused.
        start_s: It must answer so long after its start.
        silence_s: A trainer that says nothing for so long is given up; it gives a sign of life every 2 s.
        wait_s: So long a command waits for another one of the same site; 0: it does not.
        env: Variables added to those of the worker.
    """

    folder: str = Field(min_length=1)
    idle_s: float = Field(default=600.0, gt=0)
    start_s: float = Field(default=120.0, gt=0)
    silence_s: float = Field(default=120.0, gt=0)
    wait_s: float = Field(default=600.0, ge=0)
    env: dict[str, str] = Field(default_factory=dict)

    def run(
        self,
        site: str,
        command: str,
        spec: Any,
        *,
        timeout_s: float,
        on_event: OnEvent | None = None,
    ) -> Mapping[str, Any]:
        """Have a site's trainer do something; it is started if none answers.

        When the Dagster run is terminated, or this process dies, the command ends at its next step.

        Args:
            site: Whose trainer.
            command: `train`, `measure` or `judge`.
            spec: The command's spec dataclass, or a mapping of its fields.
            timeout_s: The command is ended after so long.
            on_event: Called with each event, e.g. `{"event": "step", ...}`; signs of life stay out.

        Returns:
            The command's report as a mapping.

        Raises:
            dagster.Failure: If the run was terminated; it is not retried.
            JobFailedError: If the trainer died, fell silent or took too long.
            TrainerBusyError: If it works for somebody else for longer than `wait_s`.
            WorldloopError: What the command itself ended with, as the type that it was.
        """
        fields = asdict(spec) if is_dataclass(spec) and not isinstance(spec, type) else dict(spec)
        request = {"command": command, "spec": fields, "wait_s": self.wait_s}
        until_s = time.monotonic() + timeout_s
        try:
            for is_last in (False, True):
                connection = self._connected(site)
                with connection:
                    answer = self._listen(site, connection, request, until_s, on_event)
                if answer is not None:
                    return answer
                if is_last:
                    break
        except DagsterExecutionInterruptedError as error:
            raise dg.Failure(
                f"The command {command!r} at {site} was terminated; run the partition again to go on.",
                allow_retries=False,
            ) from error
        raise JobFailedError(
            f"The trainer of {site} hung up twice without a word; expected a report. Its log is {self.log_path(site)}."
        )

    def stop(self, site: str) -> bool:
        """End a site's trainer; a command that it works on stops at its next step.

        Returns:
            Whether there was one.
        """
        answer = self._asked(site, "stop")
        if answer is None:
            return False
        until_s = time.monotonic() + _ASK_TIMEOUT_S
        while self.socket_path(site).exists() and time.monotonic() < until_s:
            time.sleep(0.02)
        return True

    def standing(self) -> list[dict[str, Any]]:
        """The trainers that answer: site, pid, busy, command, model, since_s, num_done and others."""
        sites = sorted(path.stem for path in Path(self.folder).glob("*.log"))
        states = {site: self._asked(site, "ping") for site in sites}
        return [{"site": site, **state} for site, state in states.items() if state is not None]

    def socket_path(self, site: str) -> Path:
        """Where a site's trainer listens."""
        path = Path(self.folder) / f"{site}.sock"
        if len(os.fsencode(path)) <= _MOST_PATH:
            return path
        named = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"worldloop-{os.getuid()}" / f"{named}.sock"

    def log_path(self, site: str) -> Path:
        """What a site's trainer said."""
        return Path(self.folder) / f"{site}.log"

    def _connected(self, site: str) -> socket.socket:
        """A connection to the site's trainer, which is started first if none answers."""
        connection = self._connection(site)
        if connection is not None:
            return connection
        with self._only_starter(site):
            connection = self._connection(site)  # another run may have been faster
            if connection is not None:
                return connection
            process = self._start(site)
            until_s = time.monotonic() + self.start_s
            while time.monotonic() < until_s:
                connection = self._connection(site)
                if connection is not None:
                    return connection
                if process.poll() not in (None, 0):  # 0: another trainer holds the socket
                    break
                time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise JobFailedError(
            f"The trainer of {site} did not answer within {self.start_s:.0f} s; expected it to listen at "
            f"{str(self.socket_path(site))!r}. Its log is {self.log_path(site)}."
        )

    def _connection(self, site: str) -> socket.socket | None:
        """A connection, if somebody listens."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self.socket_path(site)))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        return connection

    def _start(self, site: str) -> _Outliving:
        """Start a trainer that no signal to this process group reaches."""
        path, log = self.socket_path(site), self.log_path(site)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        arguments = ["--socket", str(path), "--idle-s", str(self.idle_s), "--log", str(log)]
        _started[:] = [process for process in _started if process.poll() is None]
        with log.open("ab") as output:
            process = _Outliving(
                [sys.executable, "-m", _MODULE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **self.env},
            )
        _started.append(process)
        return process

    @contextlib.contextmanager
    def _only_starter(self, site: str) -> Iterator[None]:
        """Of several runs that find no trainer one starts it; the lock goes with its process."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with (Path(self.folder) / f"{site}.starting").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def _listen(
        self,
        site: str,
        connection: socket.socket,
        request: Mapping[str, Any],
        until_s: float,
        on_event: OnEvent | None,
    ) -> Mapping[str, Any] | None:
        """The report of a request; None if the trainer ended before it began, so that another is asked."""
        began = False
        for line in self._lines(site, connection, request, until_s):
            if "report" in line:
                report: Mapping[str, Any] = line["report"]
                return report
            if "error" in line:
                raise _error_of(line["error"])
            event = line.get("event", {})
            began = began or event.get("event") == "started"
            if on_event is not None and event.get("event") not in ("alive", "waiting"):
                on_event(event)
        if not began:
            return None
        raise JobFailedError(
            f"The trainer of {site} ended in the middle of {request['command']!r}; expected a report. Most likely "
            f"it was killed or ran out of memory; its log is {self.log_path(site)}. Its state is kept: run "
            "the partition again to go on."
        )

    def _lines(
        self, site: str, connection: socket.socket, request: Mapping[str, Any], until_s: float
    ) -> Iterator[Mapping[str, Any]]:
        """What the trainer says, until it hangs up."""
        connection.settimeout(min(self.silence_s, max(until_s - time.monotonic(), 0.01)))
        with contextlib.suppress(ConnectionError):  # it ended between connect() and here
            connection.sendall(json.dumps(request).encode() + b"\n")
            content = b""
            while True:
                head, newline, rest = content.partition(b"\n")
                if newline:
                    content = rest
                    yield json.loads(head)
                    continue
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise _too_late(site, request)
                connection.settimeout(min(self.silence_s, left_s))
                try:
                    block = connection.recv(1 << 16)
                except TimeoutError as error:
                    if time.monotonic() >= until_s:
                        raise _too_late(site, request) from error
                    raise JobFailedError(
                        f"The trainer of {site} said nothing for {self.silence_s:.0f} s; expected a sign of life "
                        f"every 2 s. Its log is {self.log_path(site)}."
                    ) from error
                if not block:
                    return
                content += block

    def _asked(self, site: str, command: str) -> dict[str, Any] | None:
        """The answer to `ping` or `stop`; None if nobody listens."""
        connection = self._connection(site)
        if connection is None:
            return None
        until_s = time.monotonic() + _ASK_TIMEOUT_S
        with connection:
            for line in self._lines(site, connection, {"command": command}, until_s):
                return dict(line.get("report", {}))
        return None


def _too_late(site: str, request: Mapping[str, Any]) -> JobFailedError:
    return JobFailedError(
        f"The command {request['command']!r} at {site} took longer than its timeout and was ended. Its state is "
        "kept: run the partition again to go on, or plan fewer steps."
    )


def _error_of(record: Mapping[str, Any]) -> WorldloopError:
    """The error that a trainer sent, as the type that it was there; its message is the trainer's."""
    name, message = str(record.get("type", "")), str(record.get("message", ""))
    kind = TrainerBusyError if name == _BUSY else getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, WorldloopError)):
        return JobFailedError(f"{name}: {message}. The trainer's log has the details.")
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    vars(error).update(record.get("facts") or {})
    return error
