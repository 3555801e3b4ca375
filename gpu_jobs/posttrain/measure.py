"""Measures adapters at a site: the loss on footage that nobody trained on, and what samples repeat.

Noise is drawn from (seed, recipe id, level), so a clip meets the same noise under every adapter and in
every order, and the difference of two losses is the adapters' alone.
"""

# C channels, T latent frames, H height, W width, N samples, M windows, D numbers of a window

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.posttrain.base import Base, BaseKey, Bases, precision_of_weights
from gpu_jobs.posttrain.encodings import Encodings, encoded
from gpu_jobs.posttrain.footage import FolderClip, Window, read_folder, read_window
from gpu_jobs.posttrain.spec import FootageClip, MeasureReport, MeasureSpec
from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays, read_adapter
from worldloop.federation.rounds import Training
from worldloop.seeds import derive_seed

Tensor = Any  # torch.Tensor; torch is imported inside functions
OnEvent = Callable[[Mapping[str, Any]], None]

_POOLED = (16, 24, 24)  # most latent frames, rows and columns that windows are compared in
_BLOCK = 64  # windows of footage that are held at once
_TYPICAL_PERCENTILE = 95


@dataclass(frozen=True)
class HeldOut:
    """One window of a held-out clip.

    Attributes:
        facts: Of its clip.
        window: Its number in the encodings.
        other: Number of the clip whose caption is the wrong one for it; None if all captions are equal.
    """

    facts: FootageClip
    window: int
    other: int | None


def measure(
    spec: MeasureSpec, on_event: OnEvent | None = None, bases: Bases | None = None
) -> MeasureReport:
    """Measure every adapter of a spec on the same clips at the same noise.

    Args:
        spec: What to measure on what.
        on_event: Told `{"event": "measured", "adapter": str, "done": int, "of": int}`; may raise to stop.
        bases: Keeps models loaded between calls; None: one for this call.

    Raises:
        MalformedRecordError: If the spec, the footage or an adapter does not fit the model.
    """
    from gpu_jobs.common.devices import claim_device

    _check(spec)
    started_s = time.monotonic()
    with claim_device(spec.device) as device:
        base = (bases or Bases()).get(
            BaseKey(
                spec.model,
                spec.checkpoint_dir,
                spec.transformer_dir,
                precision_of_weights(spec.precision),
                str(device),
            )
        )
        footage = _encodings(
            spec,
            base,
            read_folder(Path(spec.footage_dir), cities=spec.cities, max_clips=spec.num_clips),
        )
        held_out = held_out_windows(footage)
        _encode(base, footage, [clip.window for clip in held_out])
        losses = [
            row
            for one in spec.adapters
            for row in _losses(spec, base, footage, held_out, one, on_event)
        ]
        nearest = _nearest(spec, base, footage, held_out) if spec.memorisation else []
    wall_s = time.monotonic() - started_s
    return MeasureReport(
        losses=losses,
        nearest=nearest,
        num_clips=len(held_out),
        wall_s=round(wall_s, 3),
        gpu_s=0.0 if device == "cpu" else round(wall_s, 3),
        versions=_versions(str(device)),
    )


def _encode(base: Base, footage: Encodings, windows: Sequence[int]) -> None:
    """Have windows encoded, with no other part on a GPU than the autoencoder, and none afterwards."""
    base.settle()
    for window in windows:
        footage.latent(window)
    base.settle()


def held_out_windows(footage: Encodings) -> list[HeldOut]:
    """The middle window of every clip, each with a clip whose caption is another."""
    by_clip: dict[int, list[int]] = {}
    for index in range(len(footage)):
        by_clip.setdefault(footage.clip(index), []).append(index)
    clips = sorted(by_clip)
    return [
        HeldOut(
            footage.clips[clip].facts,
            by_clip[clip][len(by_clip[clip]) // 2],
            next(
                (
                    other
                    for other in clips[place + 1 :] + clips[:place]
                    if footage.captions[other] != footage.captions[clip]
                ),
                None,
            ),
        )
        for place, clip in enumerate(clips)
    ]


def levels(count: int) -> list[float]:
    """Quantiles of the noise levels of training, evenly spaced.

    Example:
        >>> levels(2)
        [0.25, 0.75]
    """
    return [(number + 0.5) / count for number in range(count)]


def nearest_similarities(
    queries_ND: NDArray[np.float32], windows: Iterator[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Cosine of each query with the window that is most like it, float32 (N,).

    Args:
        queries_ND: Unit vectors.
        windows: Unit vectors (D,), one after the other; only a block of them is held.
    """
    best = np.full(len(queries_ND), -1.0, np.float32)
    block: list[NDArray[np.float32]] = []
    for window in windows:
        block.append(window)
        if len(block) == _BLOCK:
            best = np.maximum(best, (queries_ND @ np.stack(block).T).max(axis=1))
            block = []
    if block:
        best = np.maximum(best, (queries_ND @ np.stack(block).T).max(axis=1))
    return best


def _losses(
    spec: MeasureSpec,
    base: Base,
    footage: Encodings,
    held_out: Sequence[HeldOut],
    adapter: Mapping[str, str],
    on_event: OnEvent | None,
) -> Iterator[dict[str, Any]]:
    """One row a clip under one adapter."""
    with base.adapted(_adapter(adapter["path"]), alpha=spec.alpha):
        for done, clip in enumerate(held_out, start=1):
            latent = footage.latent(clip.window)
            row = {
                "adapter": adapter["name"],
                "recipe_id": clip.facts.recipe_id,
                "city": clip.facts.city,
                "institution": clip.facts.institution,
                "loss": _loss(spec, base, clip, latent, footage.context(clip.window)),
            }
            if spec.other_captions and clip.other is not None:
                other = footage.caption(clip.other)
                row["loss_other_caption"] = _loss(spec, base, clip, latent, other)
            yield row
            if on_event:
                progress = {"adapter": adapter["name"], "done": done, "of": len(held_out)}
                on_event({"event": "measured", **progress})


def _loss(
    spec: MeasureSpec, base: Base, clip: HeldOut, latent_CTHW: Tensor, context_LD: Tensor
) -> float:
    """Mean over the noise levels; one clip a pass, so that no other clip changes a bit of it."""
    found = [
        base.denoising_losses(
            latent_CTHW[None],
            context_LD[None],
            shape=ClipShape(**spec.shape),
            place=place,
            seeds=[derive_seed("held-out noise", spec.seed, clip.facts.recipe_id, number)],
        )[0]
        for number, place in enumerate(levels(spec.noise_levels))
    ]
    return float(np.mean(found))


def _nearest(
    spec: MeasureSpec, base: Base, footage: Encodings, held_out: Sequence[HeldOut]
) -> list[dict[str, Any]]:
    """One row a sample and adapter: how near it is to footage that is trained on."""
    trained = _encodings(
        spec, base, read_folder(Path(spec.footage_dir), exclude_cities=spec.cities)
    )
    if not len(trained):
        raise MalformedRecordError(
            f"footage folder {Path(spec.footage_dir).name}",
            "no clip outside the held-out cities",
            "footage that is trained on, to compare samples with",
            "Leave memorisation out, or hold out fewer cities.",
        )
    mean_C, deviation_C = _channel_statistics(trained)

    def unit(latent_CTHW: Tensor) -> NDArray[np.float32]:
        return unit_window(latent_CTHW, mean_C, deviation_C)

    if not held_out:
        raise MalformedRecordError(
            f"footage folder {Path(spec.footage_dir).name}",
            "no clip of the held-out cities",
            "held-out footage, whose distance to training footage is the yardstick",
            "Leave memorisation out, or hold out cities that have clips.",
        )
    names = [(name, number) for name, paths in spec.samples.items() for number in range(len(paths))]
    samples = [
        unit(_sample_latent(base, Path(path), spec))
        for paths in spec.samples.values()
        for path in paths
    ]
    known = [unit(footage.latent(clip.window)) for clip in held_out]
    similar = nearest_similarities(
        np.stack(samples + known), (unit(trained.latent(index)) for index in range(len(trained)))
    )
    typical = float(np.percentile(similar[len(samples) :], _TYPICAL_PERCENTILE))
    return [
        {
            "adapter": name,
            "sample": number,
            "similarity": float(similar[place]),
            "typical": typical,
        }
        for place, (name, number) in enumerate(names)
    ]


def unit_window(latent_CTHW: Tensor, mean_C: Tensor, deviation_C: Tensor) -> NDArray[np.float32]:
    """A window as a unit vector: channels at zero mean and unit deviation, pooled, float32 (D,).

    Pooling to at most 16 x 24 x 24 keeps windows of large models comparable in memory, and shifts of a few
    pixels from hiding a copy.
    """
    import torch

    normal = (latent_CTHW.float() - mean_C[:, None, None, None]) / deviation_C[:, None, None, None]
    sides = [min(side, most) for side, most in zip(normal.shape[1:], _POOLED, strict=True)]
    pooled = torch.nn.functional.adaptive_avg_pool3d(normal[None], sides).flatten()
    unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=0).numpy()
    return unit


def _channel_statistics(footage: Encodings) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each latent channel over all windows, float32 (C,)."""
    import torch

    total: Any = 0.0
    square: Any = 0.0
    for index in range(len(footage)):
        latent = footage.latent(index).double()
        total = total + latent.mean(dim=(1, 2, 3))
        square = square + latent.square().mean(dim=(1, 2, 3))
    mean = total / len(footage)
    deviation = (square / len(footage) - mean.square()).clamp_min(1e-8).sqrt()
    return mean.to(torch.float32), deviation.to(torch.float32)


def _sample_latent(base: Base, path: Path, spec: MeasureSpec) -> Tensor:
    """The first window of a sample, as footage is encoded."""
    shape = ClipShape(**spec.shape)
    clip = FolderClip(FootageClip(path.stem, path.stem), path, "", None, shape.num_frames, 0.0)
    window = Window(0, 0, 1, shape.num_frames)
    return base.encode_frames(read_window(clip, window, shape, rule=base.objective.fit))


def _encodings(spec: MeasureSpec, base: Base, clips: list[FolderClip]) -> Encodings:
    """Windows side by side, encoded when they are asked for."""
    training = Training(
        shape=ClipShape(**spec.shape), sequence_interval=spec.sequence_interval, num_steps=1
    )
    cache = Path(spec.cache_dir) if spec.cache_dir else Path(spec.footage_dir) / "cache"
    return encoded(base, clips, training, cache, revision=spec.revision)


def _adapter(path: str) -> Arrays | None:
    return read_adapter(Path(path)) if path else None


def _check(spec: MeasureSpec) -> None:
    """Refuse what cannot be measured.

    Raises:
        MalformedRecordError: Naming the field.
    """
    names = [one.get("name") for one in spec.adapters]
    if not names or len(set(names)) < len(names) or not all("path" in one for one in spec.adapters):
        raise MalformedRecordError(
            "adapters to measure",
            names,
            "name and path of each, every name once",
            "Correct the spec.",
        )
    if spec.noise_levels < 1:
        raise MalformedRecordError(
            "noise_levels", spec.noise_levels, "at least 1", "Correct the spec."
        )
    if spec.memorisation and not (spec.cities and any(spec.samples.values())):
        raise MalformedRecordError(
            "memorisation",
            {"cities": list(spec.cities), "samples": {k: len(v) for k, v in spec.samples.items()}},
            "held-out cities, so that other footage counts as trained on, and samples",
            "Name both, or leave memorisation out.",
        )
    gone = [
        Path(path).name
        for path in [one["path"] for one in spec.adapters if one["path"]]
        + [path for paths in spec.samples.values() for path in paths]
        if not Path(path).is_file()
    ]
    if gone:
        raise MalformedRecordError(
            "files to measure", gone[:3], "files that are there", "Make them again."
        )


def _versions(device: str) -> dict[str, str]:
    import torch

    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    return {"torch": torch.__version__, "device": name}
