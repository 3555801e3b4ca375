"""Generates what speed profiles are judged by: `python -m gpu_jobs.cosmos_generate.quality --checkpoint DIR ...`.

Every prompt is generated with the dense run and with each profile, from the same noise, and for two
controls: the dense run in float32, and the dense run from other noise. Pixels are compared here;
some frames are kept, from which `gpu_jobs.cosmos_generate.quality_report` measures features and
text fit on any machine. `--adapted` names weights that were adapted to sparse attention, which are
compared with the dense run of the original ones; `--sweep` runs a grid of variants instead of
profiles. Needs torch, diffusers, transformers, numpy and Pillow.
"""

import argparse
import gc
import itertools
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
    KEPT_FRAMES,
    Frames,
    compare,
    write_frames,
    write_json,
    write_sheet,
)
from gpu_jobs.cosmos_generate.quality_sweep import (
    format_pixels,
    full_size_share,
    read_sweep,
)
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.gates import NOISE_FLOOR, OTHER_SEED
from worldloop.cosmos.models import Model, model
from worldloop.cosmos.profiles import PROFILES, SpeedProfile, profile
from worldloop.cosmos.requests import ClipRequest
from worldloop.curation.spacing import spaced_indices
from worldloop.errors import WorldloopError

log = logging.getLogger(__name__)

DENSE = "exact"
_COMPARED = "fast,fast_fp8_attention,sparse,thrifty,lean_fp8_attention,cached"  # a student has other weights
ADAPTED = "_adapted"  # ends the name of a variant with adapted weights
_SWEPT_FRAMES = 2  # kept of each clip of a sweep
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
        adapted: Diffusers folder of the same model, adapted to sparse attention; None: there is none.
        sweep: Variants that are no profiles, e.g. `quality_sweep.grid_of`.
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
    adapted: Path | None = None
    sweep: tuple[SpeedProfile, ...] = ()

    @property
    def model(self) -> Model:
        """The registered model under the folder's name."""
        return self.model_at(self.checkpoint)

    def model_at(self, folder: Path) -> Model:
        """The registered model under the name of another folder of weights."""
        config = json.loads((folder / "transformer" / "config.json").read_text("utf-8"))
        return replace(
            model(self.like),
            name=folder.name,
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
        checkpoint: Folder of the weights.
        seed_offset: Added to every seed.
        is_control: Whether there is no result without it.
        is_swept: Whether it is a point of a sweep; those of one folder share one compiled model.
    """

    name: str
    profile: SpeedProfile
    precision: str
    checkpoint: Path
    seed_offset: int = 0
    is_control: bool = False
    is_swept: bool = False


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


def generate_all(request: QualityRequest, out: Path, *, stills: int = 0) -> dict[str, Any]:
    """Generate every variant, compare it with the dense run, write frames, sheets and figures.

    Args:
        request: What to generate.
        out: Folder to write to: `paired.json`, `frames-<n>.npz` and `sheet-<variant>.png`.
        stills: Frames of each clip to keep; 0 is `KEPT_FRAMES`, or fewer in a sweep.

    Returns:
        The content of `paired.json`.

    Raises:
        WorldloopError: If the dense run cannot be made; a profile that cannot is noted and left out.
    """
    out.mkdir(parents=True, exist_ok=True)
    stills = stills or (_SWEPT_FRAMES if request.sweep else KEPT_FRAMES)
    outcomes: dict[str, Outcome] = {}
    paired: dict[str, Any] = {}
    runner = Runner(request)
    for variant in _variants(request):
        outcome = _generate(runner, variant)
        outcomes[variant.name] = outcome
        paired[variant.name] = _describe(variant, outcome, outcomes[DENSE], request)
        shown = {k: v for k, v in paired[variant.name].items() if k not in ("pairs", "profile")}
        log.info(json.dumps({"event": "variant_done", "variant": variant.name, **shown}))
        if variant.is_swept:  # of hundreds of clips only the stills are kept
            outcome.clips = [_stills(clip, stills) for clip in outcome.clips]
    done = {name: outcome.clips for name, outcome in outcomes.items() if outcome.clips}
    write_frames(out, done, count=stills)
    for name, clips in done.items():
        if name not in (DENSE, NOISE_FLOOR) and not paired[name]["swept"]:
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
            profiles=_profiles(given),
            prompts=tuple(itertools.islice(itertools.cycle(PROMPTS), given.prompts)),
            shape=ClipShape(given.frames, given.width, given.height, given.fps),
            num_steps=given.steps,
            guidance=given.guidance,
            sampler=given.sampler,
            seed=given.seed,
            device=given.device,
            adapted=given.adapted,
            sweep=() if given.sweep is None else tuple(read_sweep(given.sweep)),
        )
        record = generate_all(request, given.out, stills=given.stills)
    except WorldloopError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(format_pixels(record["variants"]) if request.sweep else _table(record))
    return 0


def _profiles(given: argparse.Namespace) -> tuple[str, ...]:
    """Names of profiles; a sweep has none unless they are named."""
    names = given.profiles
    if names is None:
        names = _COMPARED if given.sweep is None else ""
    return tuple(profile(name).name for name in names.split(",") if name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpu_jobs.cosmos_generate.quality")
    parser.add_argument("--checkpoint", type=Path, required=True, help="diffusers folder")
    parser.add_argument("--like", default="Tiny-Cosmos-1.0-Text2World", help="registered model")
    parser.add_argument("--profiles", help=f"{_COMPARED} unless swept")
    parser.add_argument(
        "--adapted", type=Path, help="folder of weights adapted to sparse attention"
    )
    parser.add_argument(
        "--sweep",
        nargs="*",
        metavar="FIELD=V1,V2",
        help="run a grid of variants, of these axes; a + stands between two grids",
    )
    parser.add_argument("--stills", type=int, default=0, help="frames of each clip to keep")
    parser.add_argument(
        "--prompts",
        type=int,
        default=12,
        help=f"more than {len(PROMPTS)} begin again from other noise",
    )
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
    """The dense run first, then the controls, profiles, adapted weights, the sweep."""
    dense, own = PROFILES[DENSE], request.checkpoint
    yield Variant(DENSE, dense, "bfloat16", own, is_control=True)
    yield Variant(NOISE_FLOOR, dense, "float32", own, is_control=True)
    yield Variant(OTHER_SEED, dense, "bfloat16", own, _OTHER_SEED_BY, is_control=True)
    for name in request.profiles:
        yield Variant(name, profile(name), "bfloat16", own)
    for one in request.sweep:
        yield Variant(one.name, one, "bfloat16", own, is_swept=True)
    if request.adapted is None:
        return
    named = [(profile(name), False) for name in request.profiles]
    for one, is_swept in [*named, *((one, True) for one in request.sweep)]:
        if one.density < 1.0:
            name = f"{one.name}{ADAPTED}"
            yield Variant(name, one, "bfloat16", request.adapted, is_swept=is_swept)


def _generate(runner: "Runner", variant: Variant) -> Outcome:
    """All prompts in one way. A profile that does not run here is an outcome, not an end."""
    outcome = Outcome()
    try:
        for clip, seconds, forwards in runner.clips(variant):
            outcome.clips.append(clip)
            outcome.seconds.append(round(seconds, 3))
            outcome.num_forwards = forwards
    except Exception as error:
        if variant.is_control:
            raise
        outcome = Outcome(problem=f"{type(error).__name__}: {str(error)[:300]}")
    return outcome


class Runner:
    """Generates variants with as few loaded and compiled models as can be.

    Args:
        request: What is generated.
    """

    def __init__(self, request: QualityRequest):
        self.request = request
        self._shared: tuple[Path | None, Any, Any] = (None, None, None)

    def clips(self, variant: Variant) -> Iterator[tuple[Frames, float, int]]:
        """Each prompt's clip, its time and its passes."""
        import torch

        request, device = self.request, torch.device(self.request.device)
        world, new_policy = self._swept(variant) if variant.is_swept else self._alone(variant)
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

    def _alone(self, variant: Variant) -> tuple[WorldModel, Any]:
        """A model of its own, as a job would have it, and what makes its policies."""
        from gpu_jobs.cosmos_generate.speed.apply import apply_profile

        self._shared = (None, None, None)
        _free()
        world = self._load(variant)
        new_policy = apply_profile(
            world, variant.profile, shape=self.request.shape, device=self.request.device
        )
        return self._moved(world), new_policy

    def _swept(self, variant: Variant) -> tuple[WorldModel, Any]:
        """The model that all swept variants of a folder share; attention is told of each density."""
        from gpu_jobs.cosmos_generate.speed.apply import apply_to
        from gpu_jobs.cosmos_generate.speed.policy import ProfilePolicy

        if self._shared[0] != variant.checkpoint:
            self._shared = (None, None, None)
            _free()
            world = self._load(variant)
            density = apply_to(
                world.parts["transformer"], variant.profile, device=self.request.device
            )
            self._shared = (variant.checkpoint, self._moved(world), density)
        _, world, density = self._shared
        for block in world.parts["transformer"].transformer_blocks:
            block.stack.density = variant.profile.density
        return world, lambda: ProfilePolicy(variant.profile, density)

    def _load(self, variant: Variant) -> WorldModel:
        import torch

        from gpu_jobs.cosmos_generate.backends.registry import load_model

        folder, device = variant.checkpoint, torch.device(self.request.device)
        dtype = getattr(torch, variant.precision)
        entry = self.request.model_at(folder)
        return load_model(entry, folder.parent, dtype=dtype, device=device)

    def _moved(self, world: WorldModel) -> WorldModel:
        for part in world.parts.values():
            part.to(self.request.device)
        return world


def _stills(clip: Frames, count: int) -> Frames:
    return clip[spaced_indices(len(clip), count=count)]


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
        "weights": "original" if variant.checkpoint == request.checkpoint else "adapted",
        "swept": variant.is_swept,
        "work_share": full_size_share(variant.profile),
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
