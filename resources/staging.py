"""Local scratch of running jobs, and the lock that keeps two runs from making one shard twice."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from worldloop.layout import staging_key


class Staging(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A folder on this machine's disk; nothing in it is needed once a shard is published.

    Attributes:
        root: Folder of all scratch.
    """

    root: str

    def folder(self, wave: str, city: str) -> Path:
        """Where the jobs of a shard leave finished clips until the pack stands."""
        folder = Path(self.root) / staging_key(wave, city)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def lock(self, wave: str, city: str, step: str) -> Iterator[None]:
        """Hold a step of a shard; whoever asks second waits, and then finds it made.

        The lock belongs to the open file, so a killed process gives it back at once.
        """
        path = Path(self.root) / "locks" / f"{wave}.{city}.{step}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def clear(self, wave: str, city: str) -> None:
        """Remove the scratch of a shard."""
        shutil.rmtree(Path(self.root) / staging_key(wave, city), ignore_errors=True)
