"""Measures what `quality` generated, and judges: `python -m gpu_jobs.cosmos_generate.quality_report --frames DIR`.

Runs on any machine with our starter embedder, a small CLIP that was trained on our own footage: it
is no judge of photographs, but it knows the things, weathers and lights that this footage shows.
"""

# B frames, L tokens, D width

import argparse
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.cosmos_generate.quality_frames import Frames, read_frames, write_json
from gpu_jobs.cosmos_generate.quality_sweep import format_gated
from worldloop.cosmos.gates import (
    METRICS,
    NOISE_FLOOR,
    OTHER_SEED,
    Estimate,
    Measured,
    feature_share,
    judge_adapted,
    verdicts,
)
from worldloop.cosmos.profiles import PROFILES
from worldloop.errors import MalformedRecordError, WorldloopError
from worldloop.seeds import stream

DENSE = "exact"
_ASKED = ("model", "shape", "num_steps", "guidance", "sampler", "seed", "num_prompts")
NUM_RESAMPLES = 2000
_INTERVAL = (5, 95)  # percentiles


def measure(folder: Path, *, date: str = "") -> dict[str, Any]:
    """All metrics of a generated folder, as `worldloop.cosmos.gates.measured_quality` gives them.

    Args:
        folder: Written by `gpu_jobs.cosmos_generate.quality`.
        date: ISO date of the measurement; today when empty.

    Raises:
        MalformedRecordError: If the folder has no kept frames.
    """
    from gpu_jobs.embed_clips.model import EmbedModel

    paired = json.loads((folder / "paired.json").read_text(encoding="utf-8"))
    embedder = EmbedModel.load()
    clips = read_frames(folder)
    values = _all_values(embedder, clips, paired)
    controls = {name: _estimates(values[name]) for name in (NOISE_FLOOR, OTHER_SEED)}
    rows = {
        name: {
            **Measured(row["profile"], _estimates(values[name]), controls).to_record(),
            **{key: row[key] for key in ("num_forwards", "clip_s", "work_share", "weights")},
        }
        for name, row in paired["variants"].items()
        if name not in (DENSE, *controls) and name in clips
    }
    swept = {n: row for n, row in rows.items() if paired["variants"][n]["swept"]}
    named = {**_as_profiles(swept), **{n: row for n, row in rows.items() if n not in swept}}
    not_run = {n: row["problem"] for n, row in paired["variants"].items() if row["problem"]}
    facts = {k: v for k, v in paired.items() if k not in ("variants", "prompts", "family")}
    return {
        **facts,
        "families": sorted({paired["family"], "cosmos1", "predict1"}),
        "embedder": embedder.model_id,
        "num_prompts": len(paired["prompts"]),
        "date": date or dt.datetime.now(dt.UTC).date().isoformat(),
        "dense_clip_s": paired["variants"][DENSE]["clip_s"],
        "profiles": {n: row for n, row in named.items() if row["weights"] == "original"},
        "adapted": {
            row["profile"]["name"]: row for row in named.values() if row["weights"] == "adapted"
        },
        "not_run": not_run,
        **({"sweep": swept} if swept else {}),
    }


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was measured of one model in several runs; a later one goes before.

    Raises:
        MalformedRecordError: If the runs differ in what was asked, so that they cannot be compared.
    """
    first = parts[0]
    for part in parts[1:]:
        differing = [key for key in _ASKED if part[key] != first[key]]
        if differing:
            raise MalformedRecordError(
                "folders of one report",
                {key: (first[key], part[key]) for key in differing},
                "the same model, prompts, shape, steps and seed",
                "Generate them again, or report them one by one.",
            )
    tables = {
        key: {name: row for part in parts for name, row in part.get(key, {}).items()}
        for key in ("profiles", "adapted", "sweep")
    }
    not_run = {n: words for part in parts for n, words in part["not_run"].items()}
    return {
        **first,
        **{key: rows for key, rows in tables.items() if rows or key != "sweep"},
        "not_run": {n: words for n, words in not_run.items() if n not in tables["profiles"]},
    }


def bootstrap(values: Sequence[float], *names: str) -> Estimate:
    """Mean with a 90 % interval over resampled prompts; the same values give the same interval.

    Example:
        >>> bootstrap([1.0, 1.0, 1.0])
        Estimate(mean=1.0, low=1.0, high=1.0)
    """
    given = np.asarray(values, np.float64)
    drawn = stream("quality bootstrap", *names).integers(0, len(given), (NUM_RESAMPLES, len(given)))
    low, high = np.percentile(given[drawn].mean(axis=1), _INTERVAL)
    return Estimate(*(round(float(value), 5) for value in (given.mean(), low, high)))


def format_report(measured: Mapping[str, Any]) -> str:
    """The figures as Markdown, with each profile's verdict."""
    lines = [
        "| run | PSNR dB | SSIM | feature distance (share of the way to another seed) | clip cosine | "
        "text cosine change | detail | motion | s a clip | verdict |",
        "|" + " --- |" * 10,
    ]
    found = {verdict.profile: verdict for verdict in verdicts(measured)}
    controls: Mapping[str, Any] = {}
    for name, row in measured["profiles"].items():
        verdict, controls = found[name], row["controls"]
        share = f"{feature_share(Measured.from_record(row)):.0%}"
        words = f"{verdict.state} {'; '.join(verdict.reasons)}".strip()
        lines.append(_line(name, row["metrics"], share, f"{row['clip_s']} | {words}"))
    for name, row in measured.get("adapted", {}).items():
        verdict = judge_adapted(name, row)
        share = f"{feature_share(Measured.from_record(row)):.0%}"
        words = f"{verdict.state} {'; '.join(verdict.reasons)}".strip()
        lines.append(
            _line(f"{name}, adapted weights", row["metrics"], share, f"{row['clip_s']} | {words}")
        )
    lines += [_line(name, metrics, "", " | control") for name, metrics in controls.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read arguments, measure, write the record, print a table."""
    parser = argparse.ArgumentParser(prog="python -m gpu_jobs.cosmos_generate.quality_report")
    parser.add_argument(
        "--frames", type=Path, required=True, nargs="+", help="folders written by quality"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write, e.g. profile_quality.json")
    parser.add_argument("--date", default="", help="ISO date of the measurement")
    given = parser.parse_args(arguments)
    try:
        measured = merged([measure(folder, date=given.date) for folder in given.frames])
    except WorldloopError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    if given.out:
        write_json(given.out, {k: v for k, v in measured.items() if k != "sweep"})
    swept = measured.get("sweep")
    if swept:
        sys.stdout.write(format_gated(swept) + "\n")
    if measured["profiles"]:
        sys.stdout.write(format_report(measured))
    return 0


def _as_profiles(swept: Mapping[str, Any]) -> dict[str, Any]:
    """Swept variants that are what a profile is today, by its name; a name makes no clip."""
    found = {}
    for one in PROFILES.values():
        for row in swept.values():
            if row["profile"] | {"name": one.name} == one.to_record():
                name = one.name if row["weights"] == "original" else f"{one.name} adapted"
                found[name] = {**row, "profile": one.to_record()}
    return found


def _all_values(
    embedder: Any, clips: Mapping[str, list[Frames]], paired: Mapping[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """Every metric of every variant, one number a prompt."""
    texts = embedder.embed_texts(list(paired["prompts"]))
    seen = {name: [_look(embedder, frames) for frames in shown] for name, shown in clips.items()}
    vectors = {name: embedder.embed_clips(shown) for name, shown in clips.items()}
    fit = {name: (vectors[name] * texts).sum(axis=1) for name in clips}
    values: dict[str, dict[str, list[float]]] = {}
    for name in clips:
        pairs = paired["variants"][name]["pairs"]
        values[name] = {
            **{key: [pair[key] for pair in pairs] for key in pairs[0]},
            "feature_distance": [
                _distance(one, other) for one, other in zip(seen[name], seen[DENSE], strict=True)
            ],
            "clip_cosine": (vectors[name] * vectors[DENSE]).sum(axis=1).tolist(),
            "text_cosine_change": (fit[name] - fit[DENSE]).tolist(),
        }
    return values


def _estimates(values: Mapping[str, list[float]]) -> dict[str, Estimate]:
    return {name: bootstrap(values[name], name) for name in METRICS}


def _look(embedder: Any, frames: Frames) -> list[NDArray[np.float32]]:
    """What the image tower makes of frames, after each of its blocks: unit vectors (B, L, D)."""
    import torch

    kept: list[NDArray[np.float32]] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        unit = torch.nn.functional.normalize(output.float(), dim=-1)
        kept.append(np.asarray(unit.cpu().numpy(), np.float32))

    blocks = embedder.network.visual.transformer.resblocks
    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        embedder.embed_frames(frames)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def _distance(one: list[NDArray[np.float32]], other: list[NDArray[np.float32]]) -> float:
    """Mean squared distance of unit features, over tokens, frames and blocks: what LPIPS is without its weights."""
    each = [np.square(a - b).sum(axis=-1).mean() for a, b in zip(one, other, strict=True)]
    return float(np.mean(each))


def _line(name: str, metrics: Mapping[str, Any], share: str, rest: str) -> str:
    cells = []
    for key in METRICS:
        estimate = metrics[key]
        cell = f"{estimate['mean']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
        cells.append(f"{cell} {share}".strip() if key == "feature_distance" else cell)
    return f"| {name} | {' | '.join(cells)} | {rest} |"


if __name__ == "__main__":
    sys.exit(main())
