"""The warm trainer of a site: one process that keeps its base loaded while commands come and go.

    python -m gpu_jobs.posttrain.trainer --socket PATH --idle-s N

A client connects to the Unix socket and writes one line, `{"command": "train", "spec": {...}}`. It
reads lines: `{"event": {...}}` while the command runs, then one `{"report": {...}}` or
`{"error": {"type": str, "message": str, "facts": {...}}}`. Commands are those of `spec.COMMANDS`,
`ping` (what it is doing; answered at once, also while it works) and `stop`.

One command runs at a time, in the main thread. Whoever comes second is told `{"error": {"type":
"TrainerBusyError", ...}}`, or waits if the request has `"wait_s"`, and gets events meanwhile. A client that
goes away takes its command with it: the next event that the command tells of raises, and the state that
it saves lets the same command go on later. Only the user who started the trainer may connect.
"""

import argparse
import contextlib
import ctypes
import fcntl
import importlib
import json
import logging
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from gpu_jobs.common.entry import read_spec
from gpu_jobs.posttrain import spec as specs
from worldloop.errors import JobFailedError, MalformedRecordError, WorldloopError

HEARTBEAT_S, GRACE_S = 2.0, 15.0
MOST_REQUEST_BYTES = 16 << 20
MOST_LOG_BYTES = 8 << 20
MOST_PATH = 100
"""Bytes of a socket's path: Linux takes 107 (unix(7), sun_path), macOS 103."""
BUSY = "TrainerBusyError"
PING, STOP = "ping", "stop"
_STOPPED = (
    "The trainer was {} before this command was done; expected it to finish. Ask again to go on."
)
_SEND_TIMEOUT_S = 30.0  # of a client that does not read
_REQUEST_TIMEOUT_S = 10.0  # of one that does not write
_HANDOVER_S = 60.0  # that a trainer may take to end

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """What a command runs.

    Attributes:
        spec: Its dataclass.
        function: `module:name` of `(spec, on_event, bases) -> report`.
    """

    spec: type[Any]
    function: str

    def run(self, spec: Any, on_event: Callable[[Mapping[str, Any]], None], bases: Any) -> Any:
        """Its report, a dataclass."""
        module, name = self.function.split(":")
        return getattr(importlib.import_module(module), name)(spec, on_event, bases)


COMMANDS: Mapping[str, Command] = {
    specs.TRAIN: Command(specs.PosttrainSpec, "gpu_jobs.posttrain.training:train"),
    specs.MEASURE: Command(specs.MeasureSpec, "gpu_jobs.posttrain.measure:measure"),
    specs.JUDGE: Command(specs.JudgeSpec, "gpu_jobs.posttrain.judge:judge"),
}


class ClientGoneError(KeyboardInterrupt):
    """Whoever asked went away, or the trainer is to stop: the command ends as if interrupted."""


@dataclass
class Client:
    """One connection.

    Attributes:
        connection: Its socket.
        asked: The request.
        gone: Whether nobody listens any more.
        stopped: Whether the trainer was told to end.
        was_interrupted: Whether its command told of nothing for long and was torn out.
    """

    connection: socket.socket
    asked: Mapping[str, Any]
    gone: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    was_interrupted: bool = False
    _sending: threading.Lock = field(default_factory=threading.Lock)

    @property
    def command(self) -> str:
        """Which command it wants."""
        return str(self.asked.get("command", ""))

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one line; a client that is gone or does not read is given up."""
        line = json.dumps(message, default=str).encode() + b"\n"
        with self._sending:
            if self.gone.is_set():
                return
            try:
                self.connection.sendall(line)
            except OSError:
                self.gone.set()

    def looks_alive(self) -> bool:
        """Whether the other end is open; a client sends nothing after its request."""
        if self.gone.is_set():
            return False
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and self.connection.recv(1, socket.MSG_PEEK) == b"":
                self.gone.set()
        except (OSError, ValueError):
            self.gone.set()
        return not self.gone.is_set()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event of the command.

        Raises:
            ClientGoneError: If nobody listens, or the trainer is to stop.
        """
        self.send({"event": event})
        if self.stopped.is_set() or not self.looks_alive():
            raise ClientGoneError("nobody waits for this command any more")

    def close(self) -> None:
        """Hang up."""
        self.gone.set()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Trainer:
    """Runs commands one after another with one set of loaded bases.

    Args:
        path: Of the socket.
        idle_s: It ends after so long without a command.
        log_path: File that gets what it and its libraries say; empty: none.
        commands: What it can be asked.
        bases: Keeps models loaded; None: `gpu_jobs.posttrain.base.Bases` when the first command comes.
        heartbeat_s: Seconds between two signs of life.
        grace_s: A command that nobody waits for, and that tells of nothing for so long, is torn out; what
            was loaded is loaded again then.
    """

    def __init__(
        self,
        path: Path,
        *,
        idle_s: float,
        log_path: Path | None = None,
        commands: Mapping[str, Command] = COMMANDS,
        bases: Any = None,
        heartbeat_s: float = HEARTBEAT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self.path, self.idle_s, self.log_path = path, idle_s, log_path
        self.commands, self.heartbeat_s, self.grace_s = commands, heartbeat_s, grace_s
        self._bases = bases
        self._waiting: queue.Queue[Client | None] = queue.Queue()
        self._lock = threading.Lock()
        self._current: Client | None = None
        self._num_waiting = 0
        self._started_s = self._since_s = time.monotonic()
        self._num_done, self._model = 0, ""
        self._ending, self._down = threading.Event(), threading.Event()
        self._worker = 0

    def serve(self) -> bool:
        """Take commands until it is told to stop or nobody came for long.

        Returns:
            Whether it served: False if another trainer holds this socket.
        """
        with _only_one(self.path) as first:
            if not first:
                return False
            with _listening(self.path) as listener:
                threads = [
                    threading.Thread(target=work, args=args, daemon=True)
                    for work, args in ((self._accept, (listener,)), (self._beat, ()))
                ]
                log.info(json.dumps({"event": "trainer_up", "pid": os.getpid()}))
                for thread in threads:
                    thread.start()
                try:
                    self._work()
                finally:
                    self._ending.set()
                    # whoever connects from now on is refused, and starts the next trainer
                    self.path.unlink(missing_ok=True)
                    self._turn_away()
                    self._down.set()
                    log.info(json.dumps({"event": "trainer_down", "num_done": self._num_done}))
        return True

    def state(self) -> dict[str, Any]:
        """What `ping` answers."""
        with self._lock:
            current = self._current
            return {
                "pid": os.getpid(),
                "busy": current is not None,
                "command": current.command if current else "",
                "since_s": round(time.monotonic() - self._since_s, 1),
                "up_s": round(time.monotonic() - self._started_s, 1),
                "num_done": self._num_done,
                "num_waiting": self._num_waiting,
                "model": self._model,
                "idle_s": self.idle_s,
            }

    def _work(self) -> None:
        """The main loop: a command, or the end after `idle_s`."""
        self._worker = threading.get_ident()
        while not self._ending.is_set():
            try:
                client = self._waiting.get(timeout=self.idle_s)
            except queue.Empty:
                log.info(json.dumps({"event": "idle"}))
                return
            if client is None:
                return
            try:
                self._serve_one(client)
            except ClientGoneError:  # it came too late to hit the command, and hit what is after it
                self._free(client)

    def _serve_one(self, client: Client) -> None:
        answer: Mapping[str, Any] = _error_of(JobFailedError(_STOPPED.format("ended")))
        with self._lock:
            self._num_waiting -= 1
            self._current, self._since_s = client, time.monotonic()
        try:
            if client.looks_alive():
                answer = self._answer(client)
        finally:
            # free before it answers: who gets a report may ask again at once
            self._free(client, answer)

    def _free(self, client: Client, answer: Mapping[str, Any] | None = None) -> None:
        """Be ready for the next command, and say the last word of this one."""
        with self._lock:
            self._current, self._since_s = None, time.monotonic()
        if answer is not None:
            client.send(answer)
        client.close()

    def _answer(self, client: Client) -> Mapping[str, Any]:
        """Run one command; the last line that its client gets."""
        started_s = time.monotonic()
        answer: Mapping[str, Any]
        outcome = "done"
        try:
            answer = {"report": self._run(client)}
            with self._lock:
                self._num_done += 1
        except ClientGoneError:
            outcome = "aborted"
            if client.was_interrupted:
                # it was torn out of the middle: what is loaded may be half changed
                self._bases, self._model = None, ""
            answer = _error_of(JobFailedError(_STOPPED.format("told to stop")))
        except WorldloopError as error:
            outcome = f"{type(error).__name__}: {error}"
            answer = _error_of(error)
        except Exception as error:
            # what is on the device after an unexpected error is anybody's guess
            self._bases, self._model = None, ""
            outcome = f"{type(error).__name__}: {error}"
            log.exception("The command %s failed", client.command)
            answer = _error_of(error)
        line = {"event": "command", "command": client.command, "outcome": outcome}
        log.info(json.dumps({**line, "wall_s": round(time.monotonic() - started_s, 2)}))
        return answer

    def _run(self, client: Client) -> dict[str, Any]:
        command = self.commands[client.command]
        spec = read_spec(command.spec, client.asked.get("spec") or {})
        if self._bases is None:
            from gpu_jobs.posttrain.base import Bases

            self._bases = Bases()
        self._model = str(getattr(spec, "model", ""))
        client.tell({"event": "started", "command": client.command, "pid": os.getpid()})
        return asdict(command.run(spec, client.tell, self._bases))

    def _accept(self, listener: socket.socket) -> None:
        """Take connections; each is read and sorted in a thread of its own."""
        while not self._ending.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._sort, args=(connection,), daemon=True).start()

    def _sort(self, connection: socket.socket) -> None:
        """Read a request and answer it, queue it or refuse it."""
        try:
            _check_user(connection)
            connection.settimeout(_REQUEST_TIMEOUT_S)
            client = Client(connection, _request_of(connection))
            connection.settimeout(_SEND_TIMEOUT_S)
        except (WorldloopError, OSError) as error:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(_error_of(error)).encode() + b"\n")
            connection.close()
            return
        if client.command == PING:
            client.send({"report": self.state()})
            client.close()
        elif client.command == STOP:
            client.send({"report": self.state()})  # first: the process may be gone right after
            client.close()
            self.stop()
        elif client.command not in self.commands:
            client.send(_error_of(_unknown(client.command, self.commands)))
            client.close()
        else:
            self._queue(client)

    def _queue(self, client: Client) -> None:
        """Line a command up, unless it would have to wait and does not want to."""
        wait_s = client.asked["wait_s"]
        with self._lock:
            current = self._current
            busy = current is not None or self._num_waiting > 0
            if not busy or wait_s > 0:
                self._num_waiting += 1
                self._waiting.put(client)
        if busy and wait_s <= 0:
            doing = current.command if current else "another command"
            client.send(
                {
                    "error": {
                        "type": BUSY,
                        "message": f"The trainer is busy with {doing}; expected it to be free. Ask again "
                        'later, or with "wait_s".',
                        "facts": {},
                    }
                }
            )
            client.close()
        elif busy:
            self._keep_waiting(client, wait_s)

    def _keep_waiting(self, client: Client, wait_s: float) -> None:
        """Tell a waiting client that it waits; give up when its patience ends."""
        until_s = time.monotonic() + wait_s
        while not client.gone.is_set() and not self._ending.is_set():
            with self._lock:
                if self._current is client:
                    return
            if time.monotonic() > until_s:
                client.send(
                    {
                        "error": {
                            "type": BUSY,
                            "message": f"The trainer was busy for {wait_s:.0f} s; expected it to be free by "
                            "then. Ask again later.",
                            "facts": {},
                        }
                    }
                )
                client.close()
                return
            if client.looks_alive():
                client.send({"event": {"event": "waiting"}})
            client.gone.wait(min(self.heartbeat_s, 0.5))

    def stop(self) -> None:
        """End after the current command, which is stopped at its next event."""
        with self._lock:
            self._ending.set()
            if self._current is not None:
                self._current.stopped.set()
        self._waiting.put(None)

    def _beat(self) -> None:
        """Signs of life, a look at the client and at the size of the log, every few seconds."""
        gone_s = 0.0
        while not self._down.wait(self.heartbeat_s):
            with self._lock:
                current, since_s = self._current, self._since_s
            now_s = time.monotonic()
            if current is None or (current.looks_alive() and not current.stopped.is_set()):
                gone_s = now_s
            if current is not None:
                current.send({"event": {"event": "alive", "busy_s": round(now_s - since_s, 1)}})
                if now_s - gone_s > self.grace_s:
                    self._interrupt(current)
            if self.log_path is not None:
                _rotate(self.log_path)
            if not self.path.exists():  # its folder was removed: nobody can ask it any more
                self._waiting.put(None)

    def _interrupt(self, client: Client) -> None:
        """Raise in the thread that works for a client; in CPython, at its next instruction."""
        with self._lock:
            if self._current is client and not client.was_interrupted:
                client.was_interrupted = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._worker), ctypes.py_object(ClientGoneError)
                )

    def _turn_away(self) -> None:
        """Tell those who still wait that this trainer ends."""
        with contextlib.suppress(queue.Empty):
            while True:
                client = self._waiting.get_nowait()
                if client is not None:
                    client.close()


def main() -> int:
    """Serve one socket until nobody needs it."""
    parser = argparse.ArgumentParser(description="The warm trainer of a site.")
    parser.add_argument("--socket", required=True, type=Path, help="Path of the Unix socket.")
    parser.add_argument("--idle-s", type=float, default=600.0, help="End after so long unused.")
    parser.add_argument("--log", type=Path, help="Log file; it is rotated.")
    asked = parser.parse_args()
    if asked.log:
        _log_into(asked.log)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        served = Trainer(asked.socket, idle_s=asked.idle_s, log_path=asked.log).serve()
    except WorldloopError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    if not served:
        log.info(json.dumps({"event": "another_trainer_serves", "socket": str(asked.socket)}))
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM: once is enough, so that the command's own clean-up is not cut off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Whether this process is the one trainer of a socket; the lock goes with the process.

    One that is about to end still holds the lock and listens no more: it is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    until_s = time.monotonic() + _HANDOVER_S
    with path.with_suffix(".lock").open("a") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if answers(path) or time.monotonic() > until_s:
                    yield False
                    return
                time.sleep(0.05)
                continue
            yield True
            return


def answers(path: Path) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """The socket, for this user alone; what a killed trainer left in its place is removed."""
    if len(os.fsencode(path)) > MOST_PATH:
        raise MalformedRecordError(
            "socket of a trainer",
            f"a path of {len(os.fsencode(path))} bytes, {str(path)[:40]}...",
            f"at most {MOST_PATH}",
            "Put it into a folder with a shorter path.",
        )
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(8)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
            # wakes the thread that waits in accept(), which close() alone does not
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _check_user(connection: socket.socket) -> None:
    """Refuse another user, also where the socket's mode is not looked at.

    Raises:
        MalformedRecordError: If it is another one.
    """
    if not hasattr(socket, "SO_PEERCRED"):  # Linux has it; elsewhere the mode decides
        return
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    if user != os.getuid():
        raise MalformedRecordError(
            "client of a trainer", f"user {user}", f"user {os.getuid()}", "Use your own trainer."
        )


def _request_of(connection: socket.socket) -> Mapping[str, Any]:
    """The one line that a client begins with."""
    content = b""
    while not content.endswith(b"\n"):
        block = connection.recv(1 << 16)
        if not block or len(content) > MOST_REQUEST_BYTES:
            raise _bad_request(content)
        content += block
    try:
        asked = json.loads(content)
        return {**asked, "wait_s": float(asked.get("wait_s", 0.0))}
    except (ValueError, TypeError, AttributeError) as error:
        raise _bad_request(content) from error


def _bad_request(content: bytes) -> MalformedRecordError:
    return MalformedRecordError(
        "request to a trainer",
        content[:60],
        'one line {"command": str, "spec": {...}}',
        "Send one.",
    )


def _unknown(command: str, known: Mapping[str, Command]) -> MalformedRecordError:
    return MalformedRecordError(
        "request to a trainer", command, f"one of {(*known, PING, STOP)}", "Ask for one of them."
    )


def _error_of(error: BaseException) -> dict[str, Any]:
    """An error as it travels: its type, its words, and those of its values that JSON knows."""
    facts = {
        name: value
        for name, value in vars(error).items()
        if isinstance(value, str | int | float | bool | None)
    }
    return {"error": {"type": type(error).__name__, "message": str(error), "facts": facts}}


def _log_into(path: Path) -> None:
    """Send everything that this process says, C libraries included, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _rotate(path)
    with path.open("ab") as file:
        _redirect(file)


def _rotate(path: Path) -> None:
    """Begin a new log file when this one is long; one old file is kept."""
    try:
        if path.stat().st_size <= MOST_LOG_BYTES:
            return
        path.replace(path.with_name(f"{path.name}.1"))
        with path.open("ab") as file:
            _redirect(file)
    except OSError:  # a log that cannot be turned over is no reason to end
        return


def _redirect(file: IO[bytes]) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)


if __name__ == "__main__":
    sys.exit(main())
