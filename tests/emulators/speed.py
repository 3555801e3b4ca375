"""How fast `SiteStore` is on a folder and on the emulators: `python -m tests.emulators.speed aws gcp`.

Figures of emulators say what tests can carry, and nothing of the clouds.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from resources.site_store import SiteStore
from tests.emulators.clouds import KINDS, running

SMALL, NUM_SMALL = b"x" * 2048, 400
LARGE_BYTES = 64 << 20


def speeds(store: SiteStore, folder: Path) -> dict[str, float]:
    """Requests a second with 2 kB objects, megabytes (1e6) a second with one of 64 MiB."""
    numbers = range(NUM_SMALL)
    large = np.random.default_rng(0).bytes(LARGE_BYTES)
    (folder / "large").write_bytes(large)
    megabytes = LARGE_BYTES / 1e6
    store.put("warm", SMALL)
    return {
        "puts": NUM_SMALL / _seconds(lambda: [store.put(f"s/{n}", SMALL) for n in numbers]),
        "puts by 16": NUM_SMALL / _by_16(lambda n: store.put(f"p/{n}", SMALL), numbers),
        "creates by 16": NUM_SMALL / _by_16(lambda n: store.create(f"c/{n}", SMALL), numbers),
        "get_many": NUM_SMALL / _seconds(lambda: list(store.get_many(f"c/{n}" for n in numbers))),
        "put_file MB": megabytes / _seconds(lambda: store.put_file("large", folder / "large")),
        "get MB": megabytes / _seconds(lambda: store.get("large")),
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _by_16(work: Callable[[int], Any], numbers: Iterable[int]) -> float:
    with ThreadPoolExecutor(16) as pool:
        return _seconds(lambda: list(pool.map(work, numbers)))


def main() -> None:
    """One line a store, each on an emulator of its own."""
    for name in sys.argv[1:] or ["folder", *KINDS]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if name == "folder":
                found = speeds(SiteStore(url=str(folder / "site")), folder)
            else:
                with running(name, folder / "state") as emulator:
                    found = speeds(emulator.store(), folder)
        words = ", ".join(f"{what} {value:,.0f}/s" for what, value in found.items())
        sys.stdout.write(f"{name}: {words} (load {os.getloadavg()[0]:.1f})\n")


if __name__ == "__main__":
    main()
