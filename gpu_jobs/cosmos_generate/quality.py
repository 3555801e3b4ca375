"""Generates what speed profiles are judged by: `python -m gpu_jobs.cosmos_generate.quality --checkpoint DIR ...`.

Every prompt is generated with the dense run and with each profile, from the same noise, and for two
controls: the dense run in float32, and the dense run from other noise. Pixels are compared here;
some frames are kept, from which `gpu_jobs.cosmos_generate.quality_report` measures features and
text fit on any machine. Needs torch, diffusers, transformers, numpy and Pillow.
"""

import argparse
import gc
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media, WorldModel
from gpu_jobs.cosmos_generate.quality_frames import (
    Frames,
    compare,
    write_frames,
    write_json,
    write_sheet,
)
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.gates import NOISE_FLOOR, OTHER_SEED
from worldloop.cosmos.models import Model, model
from worldloop.cosmos.profiles import PROFILES, SpeedProfile, profile
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import WorldloopError

log = logging.getLogger(__name__)

DENSE = "exact"
_OTHER_SEED_BY = 100_000
# In the words of the footage's captions, but not among them: subjects, weathers and lights of all
# five institutions in other combinations.
PROMPTS = (
    "a rainy city street at night with cars and pedestrians",
    "a sunny street in the morning with trees and a bus",
    "a foggy road in the city at dawn, with cars",
    "a snowy urban street in the afternoon with shops",
    "a crowded zoo by day with elephants and visitors",
    "an overcast zoological garden with giraffes and a keeper",
    "a quiet museum gallery with paintings and benches",
    "an art museum with white walls, statues and a guard in a dark suit",
    "a hospital ward with beds, nurses and blue curtains",
    "a clinic ward in the morning with a doctor and empty beds",
    "an amusement park at night with a ferris wheel and crowds",
    "a sunny funfair with a carousel, balloons and families",
    "a wet zoo in the rain with a bear behind a fence",
    "an exhibition hall with sculptures, where it is crowded",
    "a theme park at dusk with a roller coaster in the distance",
    "a city street after dark in fog, with lamps and a police officer",
)


@dataclass(frozen=True)
class QualityRequest:
    """What is generated.

    Attributes:
        checkpoint: Diffusers folder of the model.
        like: Name of the registered model that the folder is loaded as.
        profiles: Names of profiles beside the dense run.
        prompts: What to show.
        shape: Of every clip.
        num_steps: Denoising steps.
        guidance: Guidance scale.
        sampler: Name of the sampler; empty takes the family's.
        seed: Of the first clip; the next one has the next.
        device: `cpu` or `cuda`.
    """

    checkpoint: Path
    like: str
    profiles: tuple[str, ...]
    prompts: tuple[str, ...]
    shape: ClipShape
    num_steps: int = 35
    guidance: float = 2.0
    sampler: str = ""
    seed: int = 1
    device: str = "cuda"

    @property
    def model(self) -> Model:
        """The registered model under the folder's name."""
        config = json.loads((self.checkpoint / "transformer" / "config.json").read_text("utf-8"))
        return replace(
            model(self.like),
            name=self.checkpoint.name,
            num_layers=config["num_layers"],
            num_heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
        )


@dataclass(frozen=True)
class Variant:
    """One way of generating all prompts.

    Attributes:
        name: Name of the profile or the control.
        profile: How it is computed.
        precision: `bfloat16` or `float32`.
        seed_offset: Added to every seed.
    """

    name: str
    profile: SpeedProfile
    precision: str
    seed_offset: int = 0


@dataclass
class Outcome:
    """What came of a variant.

    Attributes:
        clips: In the order of the prompts; empty if it could not be run.
        seconds: Denoising time of each clip, the first one with compilation.
        num_forwards: Passes of the transformer in a clip, where the policy counts them.
        problem: Why it could not be run.
    """

    clips: list[Frames] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    num_forwards: int = 0
    problem: str = ""


def generate_all(request: QualityRequest, out: Path) -> dict[str, Any]:
    """Generate every variant, compare it with the dense run, write frames, sheets and figures.

    Args:
        request: What to generate.
        out: Folder to write to: `paired.json`, `frames-<n>.npz` and `sheet-<variant>.png`.

    Returns:
        The content of `paired.json`.

    Raises:
        WorldloopError: If the dense run cannot be made; a profile that cannot is noted and left out.
    """
    out.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    paired: dict[str, Any] = {}
    for variant in _variants(request):
        outcome = _generate(request, variant)
        outcomes[variant.name] = outcome
        paired[variant.name] = _describe(variant, outcome, outcomes[DENSE], request)
        shown = {k: v for k, v in paired[variant.name].items() if k not in ("pairs", "profile")}
        log.info(json.dumps({"event": "variant_done", "variant": variant.name, **shown}))
    done = {name: outcome.clips for name, outcome in outcomes.items() if outcome.clips}
    write_frames(out, done)
    for name, clips in done.items():
        if name not in (DENSE, NOISE_FLOOR):
            write_sheet(out / f"sheet-{name}.png", done[DENSE], clips, title=f"exact | {name}")
    record = {**_facts(request), "prompts": list(request.prompts), "variants": paired}
    write_json(out / "paired.json", record)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Read arguments, generate, print a table."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        request = QualityRequest(
            checkpoint=given.checkpoint,
            like=given.like,
            profiles=tuple(profile(name).name for name in given.profiles.split(",")),
            prompts=PROMPTS[: given.prompts],
            shape=ClipShape(given.frames, given.width, given.height, given.fps),
            num_steps=given.steps,
            guidance=given.guidance,
            sampler=given.sampler,
            seed=given.seed,
            device=given.device,
        )
        record = generate_all(request, given.out)
    except WorldloopError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(_table(record))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpu_jobs.cosmos_generate.quality")
    parser.add_argument("--checkpoint", type=Path, required=True, help="diffusers folder")
    parser.add_argument("--like", default="Tiny-Cosmos-1.0-Text2World", help="registered model")
    parser.add_argument("--profiles", default="fast,sparse,cached")
    parser.add_argument("--prompts", type=int, default=12, help=f"at most {len(PROMPTS)}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--frames", type=int, default=61)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--sampler", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    return parser


def _variants(request: QualityRequest) -> Iterator[Variant]:
    """The dense run first, then the controls, then the profiles."""
    dense = PROFILES[DENSE]
    yield Variant(DENSE, dense, "bfloat16")
    yield Variant(NOISE_FLOOR, dense, "float32")
    yield Variant(OTHER_SEED, dense, "bfloat16", _OTHER_SEED_BY)
    for name in request.profiles:
        yield Variant(name, profile(name), "bfloat16")


def _generate(request: QualityRequest, variant: Variant) -> Outcome:
    """All prompts in one way. A profile that does not run here is an outcome, not an end."""
    outcome = Outcome()
    try:
        for clip, seconds, forwards in _clips(request, variant):
            outcome.clips.append(clip)
            outcome.seconds.append(round(seconds, 3))
            outcome.num_forwards = forwards
    except Exception as error:
        if variant.name not in request.profiles:
            raise
        outcome = Outcome(problem=f"{type(error).__name__}: {str(error)[:300]}")
    _free()
    return outcome


def _clips(request: QualityRequest, variant: Variant) -> Iterator[tuple[Frames, float, int]]:
    """Each prompt's clip, its denoising time and its passes."""
    import torch

    from gpu_jobs.cosmos_generate.backends.registry import load_model
    from gpu_jobs.cosmos_generate.speed.apply import apply_profile

    device, dtype = torch.device(request.device), getattr(torch, variant.precision)
    world = load_model(request.model, request.checkpoint.parent, dtype=dtype, device=device)
    new_policy = apply_profile(world, variant.profile, shape=request.shape, device=device)
    for part in world.parts.values():
        part.to(device)
    for number, prompt in enumerate(request.prompts):
        seed = request.seed + number + variant.seed_offset
        options = DenoiseOptions(
            request.shape,
            variant.profile.num_steps or request.num_steps,
            request.guidance,
            request.sampler or world.family.samplers[0],
            new_policy(),
        )
        asked = ClipRequest(f"quality-{number}", prompt, seed=seed)
        start_s = time.perf_counter()
        frames = _one(world, asked, options, device)
        forwards = int(getattr(options.policy, "num_forwards", 0))
        yield frames, time.perf_counter() - start_s, forwards


def _one(world: WorldModel, request: ClipRequest, options: DenoiseOptions, device: Any) -> Frames:
    """One clip, denoised and decoded."""
    import torch

    with torch.no_grad():
        embedding = world.encode(request.prompt, world.family.negative_prompt)
        denoising = world.begin([request], [embedding], options, device=device, media=[Media()])
        for index in range(denoising.num_steps):
            denoising.step(index)
        return world.decode(denoising.latents()[0], request, options).frames


def _describe(
    variant: Variant, outcome: Outcome, dense: Outcome, request: QualityRequest
) -> dict[str, Any]:
    """A variant's part of `paired.json`."""
    seconds = sorted(outcome.seconds)
    return {
        "profile": variant.profile.to_record(),
        "precision": variant.precision,
        "problem": outcome.problem,
        "num_forwards": outcome.num_forwards,
        "clip_s": seconds[len(seconds) // 2] if seconds else None,
        "pairs": [
            compare(clip, reference, device=request.device)
            for clip, reference in zip(outcome.clips, dense.clips, strict=False)
        ],
    }


def _facts(request: QualityRequest) -> dict[str, Any]:
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers

    cuda = request.device != "cpu"
    return {
        "model": request.checkpoint.name,
        "family": request.model.family,
        "shape": vars(request.shape),
        "num_steps": request.num_steps,
        "guidance": request.guidance,
        "sampler": request.sampler,
        "seed": request.seed,
        "machine": torch.cuda.get_device_name() if cuda else "cpu",
        "versions": {"torch": torch.__version__, "diffusers": import_diffusers().__version__},
    }


def _free() -> None:
    """Give the device's memory back before the next model is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch._dynamo.reset()
        torch.cuda.empty_cache()


def _table(record: dict[str, Any]) -> str:
    """Means over prompts, as Markdown."""
    lines = [
        "| variant | PSNR dB | SSIM | detail | motion | s a clip | problem |",
        "|" + " --- |" * 7,
    ]
    for name, row in record["variants"].items():
        pairs = row["pairs"]
        means = [
            f"{sum(pair[key] for pair in pairs) / len(pairs):.3f}" if pairs else "-"
            for key in ("psnr_db", "ssim", "detail_ratio", "motion_ratio")
        ]
        lines.append(f"| {name} | {' | '.join(means)} | {row['clip_s']} | {row['problem']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
