"""`make bench`: CPU seconds and ratios of the main paths, each in a process of its own.

Every figure is the CPU time (user and system, children included) of fresh processes, since wall
times on shared machines say little. `--only import,chain` picks sections; `--full` renders the
16 x 121 frames that the targets speak of instead of 4 x 61, searches a million vectors and plans
10,000 scenes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

_REPEATS = 3
_console = Console()


def main() -> None:
    """Run the sections that were asked for and print a table each."""
    sections: dict[str, Callable[[bool], None]] = {
        "import": _bench_imports,
        "chain": _bench_chain,
        "render": _bench_render,
        "catalog": _bench_catalog,
        "prompts": _bench_prompts,
        "scenes": _bench_scenes,
    }
    parser = argparse.ArgumentParser(prog="orchestration.bench", description=__doc__)
    parser.add_argument("--only", default=",".join(sections))
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    for name in options.only.split(","):
        sections[name](options.full)


def _bench_imports(_full: bool) -> None:
    table = Table("import", "CPU-s, median", "CPU-s, worst", title="Code locations")
    for module in ("dagster", "orchestration.definitions", "orchestration.marts"):
        seconds = [_cpu_s([sys.executable, "-c", f"import {module}"]) for _ in range(_REPEATS + 1)]
        warm = seconds[1:]  # the first one may write bytecode or parse dbt
        table.add_row(module, f"{statistics.median(warm):.2f}", f"{max(warm):.2f}")
    _console.print(table)


def _bench_chain(full: bool) -> None:
    num_clips, num_frames = (16, 121) if full else (4, 61)
    with tempfile.TemporaryDirectory(prefix="worldloop-bench-") as home:
        found = json.loads(
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "orchestration.bench_chain",
                    str(num_clips),
                    str(num_frames),
                ],
                env={
                    **os.environ,
                    "WORLDLOOP_HOME": home,
                    "DAGSTER_HOME": str(Path(home) / "dagster"),
                },
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            ).stdout.splitlines()[-1]
        )
    table = Table(
        "part", "CPU-s", "share", title=f"One city, {num_clips} clips x {num_frames} frames"
    )
    for row in found["rows"]:
        table.add_row(row["part"], f"{row['cpu_s']:.2f}", f"{row['share']:.1%}")
    _console.print(table)
    _console.print(
        f"Event store: {found['events_kb_per_1000']:.0f} kB per 1,000 city partitions "
        f"({found['events_per_city']} events each)"
    )


def _bench_render(full: bool) -> None:
    command = [sys.executable, "-m", "gpu_jobs.render_clips.bench", *(["--full"] if full else [])]
    subprocess.run(command, check=True)


def _bench_catalog(full: bool) -> None:
    rows = 1_000_000 if full else 100_000
    command = [sys.executable, "-m", "orchestration.bench_catalog", "--rows", str(rows)]
    subprocess.run(command, check=True)


def _bench_scenes(full: bool) -> None:
    num = 10_000 if full else 1_000
    command = [sys.executable, "-m", "orchestration.bench_scenes", "--plan", str(num)]
    subprocess.run(command, check=True)


def _bench_prompts(full: bool) -> None:
    num = 10_000 if full else 2_000
    command = [sys.executable, "-m", "orchestration.bench_prompts", "--num", str(num)]
    subprocess.run(command, check=True)


def _cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


if __name__ == "__main__":
    main()
