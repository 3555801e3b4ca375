"""Are regenerated clips better than those they replace? The base and adapters, on the same prompts and seeds.

    python -m tests.campaigns.regenerated make --folder F --out F/regenerated.jsonl --seeds 0-4
    python -m tests.campaigns.regenerated table --out F/regenerated.jsonl

Prompts are captions of held-out clips: places of cities that nobody trained on, of the institutions that the sites
brought. The last adapter of every seed of `tests.campaigns.learning` makes a clip of each, the base one of the same
prompt and noise, through the job that a round's samples and waves go through. Both are judged beside the true clips,
as a round's evaluation does it, and each clip by how near it lies to true clips (`nearness`).
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpu_jobs.cosmos_generate.job import cosmos_generate
from gpu_jobs.cosmos_generate.spec import CosmosGenerateSpec
from gpu_jobs.embed_clips.model import EmbedModel
from gpu_jobs.posttrain.base import Base, BaseKey, Bases
from gpu_jobs.posttrain.features import frame_statistics, pooled_latent, read_clip
from gpu_jobs.posttrain.footage import FolderClip, Window, read_folder, read_window
from gpu_jobs.posttrain.judge import judge
from gpu_jobs.posttrain.spec import FootageClip, JudgeSpec
from tests.campaigns.learning import FEDERATED, MODEL, TRAINING, last_adapter, lines_of, numbers_of
from tests.campaigns.learning_footage import CITIES, HELD_OUT, NEW, PARTITIONS, SHAPE
from tests.campaigns.nearness import TRUE, Features, Nearness, by_seed_and_prompt
from tests.campaigns.paired import crossed_interval, interval
from worldloop.cosmos.models import model
from worldloop.cosmos.profiles import profile
from worldloop.cosmos.requests import ClipRequest
from worldloop.curation.signals import judge as accept
from worldloop.curation.signals import measure_clip
from worldloop.federation.adapters import read_adapter
from worldloop.federation.comparisons import quality
from worldloop.federation.evaluation import AFTER, BEFORE, FOOTAGE
from worldloop.federation.model_card import LORA_WEIGHTS, diffusers_lora, lora_settings

GROUPS = (BEFORE, AFTER)
NUM_STEPS, NUM_FRAMES = 20, 8
MORE = ("right_", "kept_", "text_cosine", "temporal_consistency")
LESS = ("nearest_", "same_", "kernel_distance")
_NOISE_SEED = 5000


def make(
    folder: Path, out: Path, *, partition: str, variant: str, seeds: Sequence[int], each: int
) -> None:
    """Rows of every seed that the file lacks."""
    clips = read_folder(folder / HELD_OUT)
    true = [one for one in clips if one.facts.institution in NEW]
    asked = [
        one
        for place in NEW
        for one in [clip for clip in true if clip.facts.institution == place][:each]
    ]
    bases = Bases()
    eyes = _Eyes(bases.get(BaseKey(MODEL, str(folder / "checkpoints"), "", "fp32")))
    ruler = eyes.ruler(true)
    if not out.exists():
        _append(out, ({"seed": -1, "kind": "clip", **row} for row in ruler.of_truth()))
    done = {row["seed"] for row in lines_of(out)}
    for seed in [one for one in seeds if one not in done]:
        work = folder / "regenerated" / f"{partition}-{variant}-{seed}"
        adapter = last_adapter(folder, partition, variant, seed)
        made = {
            BEFORE: _generated(folder, work / BEFORE, asked, seed, None),
            AFTER: _generated(folder, work / AFTER, asked, seed, adapter),
        }
        rows = [
            {"seed": seed, "kind": "clip", "group": group, "prompt": number}
            | ruler.of(eyes.features(path), clip.facts)
            | _kept(path, clip.video)
            for group, paths in made.items()
            for number, (clip, path) in enumerate(zip(asked, paths, strict=True))
        ]
        report = judge(_judge_spec(folder, true, asked, made, work), bases=bases)
        rows += [{"seed": seed, "kind": "set", **row} for row in report.scores]
        _append(out, rows)
        sys.stdout.write(f"seed {seed}: {len(asked)} prompts, {report.sheet_path}\n")
        sys.stdout.flush()


def show(out: Path) -> None:
    """One row a measure: true footage, before, after, the paired change with its 90 % interval."""
    rows = lines_of(out)
    seeds = sorted({row["seed"] for row in rows if row["seed"] >= 0})
    sys.stdout.write(
        f"{len(seeds)} adapters\n\n| measure | better is | true clips | before | after | change | better in |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    clips = [row for row in rows if row["kind"] == "clip"]
    for measure in [name for name in clips[-1] if name not in ("seed", "kind", "group", "prompt")]:
        before, after = (by_seed_and_prompt(clips, group, measure) for group in GROUPS)
        truth = [row[measure] for row in clips if row["group"] == TRUE and measure in row]
        change = after - before
        _print_row(measure, truth, before, after, change.mean(axis=1), crossed_interval(change))
    sets = [row for row in rows if row["kind"] == "set"]
    for measure in dict.fromkeys(row["measure"] for row in sets):
        before, after = (
            np.array(
                [row["value"] for row in sets if (row["group"], row["measure"]) == (group, measure)]
            )
            for group in GROUPS
        )
        if len(before):
            truth = [
                row["value"] for row in sets if (row["group"], row["measure"]) == (FOOTAGE, measure)
            ]
            bounds = interval((after - before).tolist())
            _print_row(f"{measure} (set)", truth, before, after, after - before, bounds)


def _print_row(
    measure: str,
    truth: Sequence[float],
    before: Features,
    after: Features,
    changes: Features,
    bounds: tuple[float, float],
) -> None:
    """One line; `changes` has one number a seed."""
    sign = int(measure.startswith(MORE)) - int(measure.startswith(LESS))
    sys.stdout.write(
        f"| {measure} | {('-', 'more', 'less')[sign]} | {format(np.mean(truth), '.4g') if truth else '-'} "
        f"| {before.mean():.4g} | {after.mean():.4g} | {changes.mean():+.4f} "
        f"[{bounds[0]:+.4f}, {bounds[1]:+.4f}] "
        f"| {int((sign * changes > 0).sum()) if sign else '-'} of {len(changes)} adapters |\n"
    )


def _generated(
    folder: Path, target: Path, asked: Sequence[FolderClip], seed: int, adapter: Path | None
) -> list[Path]:
    """A clip of every prompt, by the job that serves rounds and waves."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    loras: tuple[dict[str, Any], ...] = ()
    if adapter is not None:
        factors = read_adapter(adapter)
        content = diffusers_lora(factors, lora_settings(TRAINING, factors))
        (target / LORA_WEIGHTS).write_bytes(content)
        loras = ({"path": str(target), "weight": 1.0},)
    known = model(MODEL)
    ids = [f"{seed}-{number}" for number in range(len(asked))]
    report = cosmos_generate(
        CosmosGenerateSpec(
            model=MODEL,
            revision="",
            checkpoint_dir=str(folder / "checkpoints"),
            requests=tuple(
                ClipRequest(name, clip.caption, seed=_NOISE_SEED + 100 * seed + number).to_record()
                for number, (name, clip) in enumerate(zip(ids, asked, strict=True))
            ),
            shape=asdict(SHAPE),
            num_steps=NUM_STEPS,
            guidance=known.default_guidance,
            sampler=known.known_samplers[0],
            profile=profile("exact").to_record(),
            staging_dir=str(target),
            pack_path=str(target.with_suffix(".tar")),
            loras=loras,
            max_failed_share=0.0,
            device="cpu",
        )
    )
    assert len(report.clips) == len(asked)
    return [target / name / "rgb.mp4" for name in ids]


def _kept(path: Path, true: Path) -> dict[str, float]:
    """What releases ask of a clip, and what it has of the sharpness and motion of its true clip."""
    found, wanted = (measure_clip(one.read_bytes()) for one in (path, true))
    accepted, _ = accept(found, num_frames=SHAPE.num_frames)
    kept = {
        "sharpness": (found.sharpness, wanted.sharpness),
        "motion": (found.motion_mean_px, wanted.motion_mean_px),
    }
    scores = quality(accepted=accepted, distinct=None, kept=kept)
    return {f"kept_{name}": value for name, value in scores.items()}


class _Eyes:
    """Three feature spaces: the starter embedder, the base's autoencoder, and statistics that nobody trained."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._embedder = EmbedModel.load(device="cpu")

    def features(self, path: Path) -> dict[str, Features]:
        """Of one clip, by space."""
        clip = read_clip(path, num_frames=NUM_FRAMES)
        whole = FolderClip(FootageClip(path.stem, path.stem), path, "", None, SHAPE.num_frames, 0.0)
        frames = read_window(whole, Window(0, 0, 1, SHAPE.num_frames), SHAPE)
        return {
            "starter": self._embedder.embed_clips([clip.frames])[0].astype(np.float64),
            "latent": pooled_latent(self._base.encode_frames(frames).numpy()),
            "statistics": frame_statistics(clip),
        }

    def ruler(self, true: Sequence[FolderClip]) -> Nearness:
        """True clips to measure from."""
        found = [self.features(one.video) for one in true]
        truth = {space: np.stack([one[space] for one in found]) for space in found[0]}
        return Nearness.among(truth, [one.facts for one in true], unit=("starter",))


def _judge_spec(
    folder: Path,
    true: Sequence[FolderClip],
    asked: Sequence[FolderClip],
    made: dict[str, list[Path]],
    work: Path,
) -> JudgeSpec:
    """As `evaluation` asks, with the true clips as reference."""
    reference = folder / "regenerated" / "true"
    if not reference.exists():
        (reference / "videos").mkdir(parents=True)
        for one in true:
            shutil.copy(one.video, reference / "videos")
    return JudgeSpec(
        groups=tuple(
            {
                "name": group,
                "clips": [str(path) for path in paths],
                "prompts": [one.caption for one in asked],
            }
            for group, paths in made.items()
        ),
        footage_dir=str(reference),
        num_frames=NUM_FRAMES,
        model=MODEL,
        checkpoint_dir=str(folder / "checkpoints"),
        sheet_path=str(work.with_suffix(".png")),
        device="cpu",
        precision="fp32",
    )


def _append(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    """Make and judge clips, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("make", "table"))
    parser.add_argument("--folder", type=Path, default=Path("learning"))
    parser.add_argument("--out", type=Path, default=Path("learning/regenerated.jsonl"))
    parser.add_argument("--partition", default=CITIES, choices=PARTITIONS)
    parser.add_argument("--variant", default=FEDERATED)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--each", type=int, default=8, help="prompts of each institution")
    asked = parser.parse_args()
    if asked.step == "table":
        show(asked.out)
        return
    make(
        asked.folder,
        asked.out,
        partition=asked.partition,
        variant=asked.variant,
        seeds=numbers_of(asked.seeds),
        each=asked.each,
    )


if __name__ == "__main__":
    main()
