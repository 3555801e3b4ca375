"""A grid of variants of a speed profile, and which of them are worth a closer look."""

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.gates import SWEPT, Measured, feature_share
from worldloop.cosmos.models import model
from worldloop.cosmos.profiles import PROFILES, SpeedProfile
from worldloop.cosmos.work import work_share
from worldloop.errors import MalformedRecordError, UnknownKeyError

GRID: Mapping[str, tuple[float, ...]] = {
    "density": (1.0, 0.5, 0.19, 0.15),
    "dense_first_steps": (2, 10),
    "cache_every": (1, 2, 3),
    "guidance_until": (1.0, 0.65),
}
FULL_MODEL = "Cosmos-1.0-Diffusion-7B-Text2World"
FULL_SHAPE = ClipShape(121, 1280, 704, 24)
_BASE = replace(
    PROFILES["fast"],
    dense_first_steps=2,
    dense_last_steps=1,
    cache_first_steps=4,
    cache_last_steps=2,
    cache_order=1,
)


def grid_of(axes: Mapping[str, Sequence[float]]) -> list[SpeedProfile]:
    """Every combination once: what a variant does not use is set to nothing, so that equals meet.

    Args:
        axes: Values of fields of `SpeedProfile`; the others are those of `fast`, with the margins of
            `sparse` and `cached`.

    Raises:
        MalformedRecordError: If a value cannot be.

    Example:
        >>> [one.name for one in grid_of({"density": [1.0, 0.5], "dense_first_steps": [2, 8]})]
        ['dense', 'density 0.5 first 2', 'density 0.5 first 8']
    """
    found: dict[str, SpeedProfile] = {}
    for values in product(*axes.values()):
        changes: dict[str, Any] = dict(zip(axes, values, strict=True))
        one = _without_idle(replace(_BASE, **changes))
        found.setdefault(_name(one), replace(one, name=_name(one)))
    return list(found.values())


def read_sweep(words: Iterable[str]) -> list[SpeedProfile]:
    """Variants of all grids of a command line, each once; `+` stands between two grids.

    Raises:
        UnknownKeyError: If a profile has no such number.
        MalformedRecordError: If a value is no number or cannot be.

    Example:
        >>> words = ["density=1", "cache_every=2,3", "+", "density=0.5", "dense_first_steps=18"]
        >>> [one.name for one in read_sweep(words)]
        ['dense every 2', 'dense every 3', 'density 0.5 first 18']
    """
    grids: list[list[str]] = [[]]
    for word in words:
        if word == "+":
            grids.append([])
        else:
            grids[-1].append(word)
    found = {one.name: one for grid in grids for one in grid_of(read_axes(grid))}
    return list(found.values())


def read_axes(words: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """Axes as a command line has them, `density=1,0.5`; none gives `GRID`.

    Raises:
        UnknownKeyError: If a profile has no such number.
        MalformedRecordError: If a value is no number.
    """
    numbers = {k: v for k, v in typing.get_type_hints(SpeedProfile).items() if v in (int, float)}
    axes: dict[str, tuple[float, ...]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if name not in numbers:
            raise UnknownKeyError("axis of a sweep", name, numbers)
        try:
            axes[name] = tuple(numbers[name](value) for value in values.split(","))
        except ValueError as error:
            raise MalformedRecordError(
                f"axis {name} of a sweep", values, "numbers with commas between", "Correct it."
            ) from error
    return axes or dict(GRID)


def full_size_share(profile: SpeedProfile) -> float:
    """`work_share` of the 7B model at its full size."""
    return round(work_share(profile, model(FULL_MODEL), FULL_SHAPE), 4)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other point is at least as good in both and better in one; less is better.

    Example:
        >>> front([(1.0, 0.0), (0.5, 0.1), (0.6, 0.2)])
        [True, True, False]
    """
    return [
        not any(
            a <= x and b <= y and (a, b) != (x, y)
            for number, (a, b) in enumerate(points)
            if number != own
        )
        for own, (x, y) in enumerate(points)
    ]


def format_pixels(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Means over prompts of swept variants by their work, best PSNR for their work first marked `*`."""
    rows = [
        (row["work_share"], _mean(row, "psnr_db"), name, row)
        for name, row in variants.items()
        if row["swept"] and row["pairs"]
    ]
    rows.sort(key=lambda row: row[:3])
    best = front([(share, -psnr_db) for share, psnr_db, _, _ in rows])
    lines = ["| work | PSNR dB | SSIM | detail | motion | variant | front |", "|" + " --- |" * 7]
    for (share, psnr_db, name, row), is_best in zip(rows, best, strict=True):
        rest = " | ".join(
            f"{_mean(row, key):.3f}" for key in ("ssim", "detail_ratio", "motion_ratio")
        )
        lines.append(
            f"| {share:.3f} | {psnr_db:.2f} | {rest} | {name} | {'*' if is_best else ''} |"
        )
    return "\n".join(lines) + "\n"


def format_gated(swept: Mapping[str, Mapping[str, Any]]) -> str:
    """Swept variants by their work, with what the gate of skipped work says of each.

    Args:
        swept: `Measured` records with `work_share` and `weights`, by name.
    """
    rows = []
    for name, record in swept.items():
        measured = Measured.from_record(record)
        share = feature_share(measured)
        rows.append((record["work_share"], share, name, record, SWEPT.reasons(measured)))
    rows.sort(key=lambda row: row[:3])
    best = front([row[:2] for row in rows])
    lines = [
        "| work | way to another seed | PSNR dB | text change | detail | motion | variant | front | gate |",
        "|" + " --- |" * 9,
    ]
    for (work, share, name, record, reasons), is_best in zip(rows, best, strict=True):
        keys = ("psnr_db", "text_cosine_change", "detail_ratio", "motion_ratio")
        means = " | ".join(f"{record['metrics'][key]['mean']:.3f}" for key in keys)
        verdict = "; ".join(reasons) or "would pass"
        mark = "*" if is_best else ""
        lines.append(f"| {work:.3f} | {share:.0%} | {means} | {name} | {mark} | {verdict} |")
    return "\n".join(lines) + "\n"


def _without_idle(one: SpeedProfile) -> SpeedProfile:
    if one.density == 1.0:
        one = replace(one, dense_first_steps=0, dense_last_steps=0)
    if one.cache_every == 1:
        one = replace(one, cache_first_steps=0, cache_last_steps=0, cache_order=0)
    return one


def _name(one: SpeedProfile) -> str:
    """What differs from `fast`, in words."""
    words = ["dense"] if one.density == 1.0 else [f"density {one.density:g}"]
    if one.density < 1.0:
        words.append(f"first {one.dense_first_steps}")
        words += [f"last {one.dense_last_steps}"] if one.dense_last_steps != 1 else []
    if one.cache_every > 1:
        words.append(f"every {one.cache_every}")
        words += [f"cache first {one.cache_first_steps}"] if one.cache_first_steps != 4 else []
        words += [f"cache last {one.cache_last_steps}"] if one.cache_last_steps != 2 else []
        words += ["repeated"] if one.cache_order == 0 else []
    if one.guidance_from > 0.0:
        words.append(f"guided from {one.guidance_from:g}")
    if one.guidance_until < 1.0:
        words.append(f"guided to {one.guidance_until:g}")
    return " ".join(words)


def _mean(row: Mapping[str, Any], key: str) -> float:
    return float(sum(pair[key] for pair in row["pairs"]) / len(row["pairs"]))
