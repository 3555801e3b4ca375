"""What this machine can run, what is missing, and how to get it."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from worldloop.cosmos.companions import COMPANIONS
from worldloop.cosmos.gates import measured_quality, refusal
from worldloop.cosmos.models import MODELS, Model
from worldloop.cosmos.outlook import Outlook, outlook
from worldloop.cosmos.timing import Gpu, gpu, gpu_of_size
from worldloop.errors import UnknownKeyError

EXTRAS = {
    "cosmos": ("diffusers", "transformers", "peft"),
    "te": ("transformer_engine",),
    "flower": ("flwr",),
    "ray": ("ray", "dagster_ray"),
    "postgres": ("dagster_postgres",),
}
_NEEDED = (
    "dagster",
    "torch",
    "torchvision",
    "open_clip_torch",
    "warp-lang",
    "av",
    "polars",
    "lancedb",
)
_MIN_FREE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        found: What was found.
        state: `ok`, `missing` (something does not run) or `optional` (something more could).
        remedy: What to do about it; empty if nothing.
    """

    name: str
    found: str
    state: str
    remedy: str = ""


def examine(home: Path) -> list[Finding]:
    """Look at Python, packages, extras, memory, disk and accelerators."""
    return [
        _python(),
        *(_package(name) for name in _NEEDED),
        _memory(),
        _disk(home),
        _accelerator(),
        *(_extra(name, modules) for name, modules in EXTRAS.items()),
        _browser(),
    ]


def this_gpu() -> Gpu | None:
    """The card of this machine, with the memory that its driver names; None without one."""
    seen = _ask_driver("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    first = seen.splitlines()[0] if seen else ""
    name, comma, mebibytes = first.rpartition(",")
    if not comma or not mebibytes.strip().isdigit():
        return None
    memory_gb = int(mebibytes) * 2**20 / 1e9
    try:
        known = gpu(name)
    except UnknownKeyError:
        known = gpu_of_size(memory_gb)
    return Gpu(name.strip(), memory_gb, known.bf16_tflops, known.fp8)


def num_gpus() -> int:
    """GPUs of this machine, as its driver lists them."""
    listed = _ask_driver("--list-gpus")
    return len(listed.splitlines()) if listed else len(list(Path("/dev").glob("nvidia[0-9]*")))


def gpu_asked(memory_gb: float) -> Gpu | None:
    """A usual card of so much memory, for questions about another machine; None for 0."""
    if memory_gb <= 0:
        return None
    usual = gpu_of_size(memory_gb)
    return Gpu(usual.name, memory_gb, usual.bf16_tflops, usual.fp8)


def examine_cosmos(checkpoint_dir: Path) -> list[Finding]:
    """Look at model folders: which models, guardrails and upsamplers are here."""
    here = [
        name for name, one in MODELS.items() if not one.tiny and (checkpoint_dir / name).is_dir()
    ]
    folders = ("Cosmos-1.0-Guardrail", "Cosmos-Guardrail1")
    held = [name for name in folders if (checkpoint_dir / name).is_dir()]
    upsamplers = [
        name
        for name, one in COMPANIONS.items()
        if one.role == "prompt_upsampler" and (checkpoint_dir / name).is_dir()
    ]
    return [
        _folder(
            "world models",
            here,
            "worldloop models list, then worldloop models download NAME (brings guards and upsampler along)",
        ),
        _folder(
            "guardrail folder",
            held,
            "Cosmos 1.0 and Predict1 do not run without. Accept the licences (worldloop models download "
            "--guardrail --dry-run names the pages), then: worldloop models download --guardrail",
        ),
        _folder("prompt upsamplers", upsamplers, "Without one, use --disable_prompt_upsampler."),
    ]


def world_models(card: Gpu | None) -> tuple[Outlook, ...]:
    """What runs on a card; without one, nothing but tiny models, which are not in the answer."""
    return outlook(card) if card is not None else ()


def by_model(rows: Iterable[Outlook]) -> dict[str, dict[str, Outlook]]:
    """Outlooks by model and tier; the empty tier is the model's own shape."""
    table: dict[str, dict[str, Outlook]] = {}
    for row in rows:
        table.setdefault(row.model.name, {})[row.tier] = row
    return table


def needs_of(rows: Iterable[Outlook]) -> dict[str, list[str]]:
    """Models of which nothing fits a card, by the card that the least of their clips needs."""
    needs: dict[int, list[str]] = {}
    for name, looks in by_model(rows).items():
        if not any(look.runs for look in looks.values()):
            cards = [look.needs_gb for look in looks.values() if look.needs_gb]
            needs.setdefault(min(cards, default=0), []).append(name)
    return {
        f"a GPU of {size_gb} GB" if size_gb else "several GPUs": needs[size_gb]
        for size_gb in sorted(needs, key=lambda size_gb: size_gb or 1000)
    }


def refused_profiles(row: Outlook) -> frozenset[str]:
    """Profiles with a time that failed their quality gate for a model's family."""
    measured = measured_quality()
    return frozenset(
        name for name in row.seconds if refusal(name, measured, family=row.model.family)
    )


def tiny_models() -> tuple[Model, ...]:
    """What runs without a GPU."""
    return tuple(one for one in MODELS.values() if one.tiny)


def _folder(what: str, names: list[str], remedy: str) -> Finding:
    if names:
        return Finding(what, ", ".join(names), "ok")
    return Finding(what, "none", "optional", remedy)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Finding(
        "Python", version, "ok" if ok else "missing", "" if ok else "Install Python 3.11 or newer."
    )


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), "ok")
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            name,
            "not installed",
            "missing",
            "Run: make run (or pip install -e . -c constraints.txt)",
        )


def _memory() -> Finding:
    cores, total_gb = os.cpu_count() or 1, psutil.virtual_memory().total / 1e9
    enough = total_gb >= 4
    return Finding(
        "cores and memory",
        f"{cores} cores, {total_gb:.0f} GB",
        "ok" if enough else "missing",
        ""
        if enough
        else "Rendering and embedding need about 2 GB; lower the pool limit in dagster.yaml.",
    )


def _disk(home: Path) -> Finding:
    folder = next(path for path in (home, *home.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    enough = free_gb >= _MIN_FREE_GB
    return Finding(
        "free disk",
        f"{free_gb:.0f} GB at WORLDLOOP_HOME",
        "ok" if enough else "missing",
        ""
        if enough
        else "Free some, set WORLDLOOP_HOME elsewhere, or see `worldloop gc --dry-run`.",
    )


def _accelerator() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding(
            "NVIDIA GPU",
            "none",
            "optional",
            "Worlds are rendered on the CPU. World models need one, but for the tiny ones.",
        )
    seen = _ask_driver("--query-gpu=name,memory.total", "--format=csv,noheader")
    return Finding("NVIDIA GPU", seen or "driver does not answer", "ok")


def _ask_driver(*arguments: str) -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    seen = subprocess.run(
        [tool, *arguments], capture_output=True, text=True, check=False, timeout=10
    )
    return seen.stdout.strip() if seen.returncode == 0 else ""


def _extra(name: str, modules: tuple[str, ...]) -> Finding:
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if not absent:
        return Finding(f"extra {name}", "installed", "ok")
    return Finding(
        f"extra {name}",
        f"lacks {', '.join(absent)}",
        "optional",
        f'pip install "worldloop[{name}]"',
    )


def _browser() -> Finding:
    tool = shutil.which("chromium") or shutil.which("google-chrome")
    if tool:
        return Finding("Chromium", tool, "ok")
    return Finding(
        "Chromium", "none", "optional", "Only the page tests use it; install `chromium`."
    )
