"""Which device a job runs on: one free GPU for each process, or the CPU."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from worldloop.errors import JobFailedError


@contextmanager
def claim_device(wanted: str, *, lock_dir: Path | None = None) -> Iterator[str]:
    """A device for this process alone, so that jobs that run side by side spread over the GPUs.

    Under `torchrun` the local rank decides. Otherwise the first GPU that no other job of this
    machine holds is taken; when all are held, the first one is shared, as the pool limit allows.

    Args:
        wanted: `cpu`, `cuda`, `cuda:<n>` or `auto` (a GPU where there is one).
        lock_dir: Folder of the lock files; the temporary folder of the machine by default.

    Yields:
        `cpu` or `cuda:<n>`.

    Raises:
        JobFailedError: If a GPU is wanted and there is none.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count):
        yield "cpu"
        return
    if not count:
        raise JobFailedError(
            f"The job asks for {wanted!r} and this machine shows no CUDA device. Use device='auto', or "
            "check the driver with `nvidia-smi`."
        )
    if "LOCAL_RANK" in os.environ:
        yield f"cuda:{os.environ['LOCAL_RANK']}"
        return
    if wanted.startswith("cuda:"):
        yield wanted
        return
    with _first_free(count, lock_dir or Path(tempfile.gettempdir())) as index:
        yield f"cuda:{index}"


@contextmanager
def _first_free(count: int, lock_dir: Path) -> Iterator[int]:
    """The first index whose lock nobody holds; 0 if all are held."""
    for index in range(count):
        held = _try_lock(lock_dir / f"worldloop-gpu-{_visible(index)}.lock")
        if held is not None:
            with held:
                yield index
            return
    yield 0


def _try_lock(path: Path) -> IO[str] | None:
    """The open lock file, or None if another process holds it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _visible(index: int) -> str:
    """The name that a GPU has for the whole machine."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return names[index] if index < len(names) else str(index)
