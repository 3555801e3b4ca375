"""Processes that stand in for the clouds' stores: started on a free port, really killed, started again."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
READY_WITHIN_S = 60.0
AZURITE_VERSION = "3.35.0"


class EmulatorMissingError(Exception):
    """A program that an emulator needs is not installed."""


class Server(ABC):
    """One emulator's process. Its state lies in its folder and outlives it.

    Attributes:
        folder: Where its state and its output are.
        port: On loopback, the same over restarts.
    """

    stop_signal = signal.SIGKILL

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """The program with its arguments."""

    def start(self) -> None:
        """Start it and wait until it answers; the state is what it was when it stopped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*_dies_with_us(), *self.command()], stdout=output, stderr=output
            )
        ends_at = time.monotonic() + READY_WITHIN_S
        while not _listening(self.port):
            if self._process.poll() is not None or time.monotonic() > ends_at:
                self.stop()
                words = (self.folder / "output.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.command()[:3]} did not come up: {words}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the process; requests under way are cut off."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None


class Moto(Server):
    """moto's server behind a journal (see `aws_server`)."""

    def command(self) -> list[str]:
        program = [sys.executable, str(HERE / "aws_server.py")]
        return [*program, "--port", str(self.port), "--folder", str(self.folder)]


class Gcs(Server):
    """Our own server of the GCS APIs (see `gcs_server`)."""

    def command(self) -> list[str]:
        program = [sys.executable, str(HERE / "gcs_server.py")]
        return [*program, "--port", str(self.port), "--folder", str(self.folder)]


class Azurite(Server):
    """Azurite with its state in a folder.

    It writes its index every five seconds and at its end, so SIGTERM ends it: after SIGKILL the last
    seconds of acknowledged writes would be gone, which is its flaw and not what is tested with it.
    """

    stop_signal = signal.SIGTERM

    def command(self) -> list[str]:
        program = azurite_program()
        here = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        state = ["--location", str(self.folder), "--skipApiVersionCheck", "--disableTelemetry"]
        return [program, *here, *state, "--silent"]


def azurite_program() -> str:
    """Where Azurite is.

    Raises:
        EmulatorMissingError: If it is nowhere; the message says how to install it.
    """
    root = HERE.parents[1]
    named = os.environ.get("WORLDLOOP_AZURITE", "")
    beside = named.removesuffix("-blob") + "-blob" if named else ""
    places = [beside, named, str(root / "node_modules" / ".bin" / "azurite-blob"), "azurite-blob"]
    for place in places:
        if place and (program := shutil.which(place)):
            return program
    raise EmulatorMissingError(
        "Azurite is not installed, so nothing was tested on Azure Blob Storage; expected azurite-blob "
        "in node_modules/.bin, on PATH, or named by WORLDLOOP_AZURITE. Install Node.js and run "
        f"`npm install --no-save --no-package-lock --prefix . azurite@{AZURITE_VERSION}`."
    )


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """A server that runs until the block ends."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _listening(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
    except OSError:
        return False


def _dies_with_us() -> list[str]:
    """On Linux the kernel ends the server even when the tests are killed.

    It does so when the thread that started the server ends, so only for the main thread.
    """
    program = shutil.which("setpriv")
    ours = threading.current_thread() is threading.main_thread()
    return [program, "--pdeathsig", "KILL"] if program and ours else []
