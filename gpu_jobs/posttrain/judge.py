"""Judges clips of a base and a candidate beside each other and against footage.

Every score names who gave it. The starter embedder was trained on our own footage: it knows its
things and lights, and is no judge of photographs; so distances come in a second space that has
nothing of it, and temporal consistency, sharpness and motion are plain measurements.
"""

# N clips, D numbers of a feature, T frames, H height, W width, C channels

import importlib.metadata
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpu_jobs.posttrain.base import Base, BaseKey, Bases, precision_of_weights
from gpu_jobs.posttrain.features import (
    BLOCK_MATCHING,
    FRAME_STATISTICS,
    DecodedClip,
    Distance,
    Features,
    KernelDistance,
    frame_statistics,
    pooled_latent,
    read_clip,
    scaled,
    temporal_consistency,
)
from gpu_jobs.posttrain.footage import videos_of
from gpu_jobs.posttrain.spec import JudgeReport, JudgeSpec
from worldloop.cosmos.gates import Estimate
from worldloop.curation.signals import measure_clip
from worldloop.errors import MalformedRecordError
from worldloop.federation.evaluation import FOOTAGE, mean_interval

OnEvent = Callable[[Mapping[str, Any]], None]

SIGNALS = "worldloop.curation.signals"
_TILE_WIDTH_PX, _GAP_PX = 192, 12
_MOST_ROWS = 8
_CLIP_MEASURES = ("text_cosine", "temporal_consistency", "sharpness", "motion")


@dataclass
class Group:
    """Clips of one name with what was found of them.

    Attributes:
        name: As in the spec.
        clips: Decoded.
        prompts: One each; empty for footage.
        measured: Numbers of single clips by measure, in the clips' order.
        features: By distance measure, (N, D).
    """

    name: str
    clips: list[DecodedClip]
    prompts: list[str]
    measured: dict[str, list[float]] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)


def judge(
    spec: JudgeSpec, on_event: OnEvent | None = None, bases: Bases | None = None
) -> JudgeReport:
    """Judge the groups of a spec.

    Args:
        spec: Which clips, and what they are held against.
        on_event: Told `{"event": "judged", "group": str, "num_clips": int}`; may raise to stop.
        bases: Keeps models loaded between calls; None: one for this call.

    Raises:
        MalformedRecordError: If a group is empty or a clip cannot be decoded.
    """
    from gpu_jobs.common.devices import claim_device
    from gpu_jobs.embed_clips.model import EmbedModel

    _check(spec)
    started_s = time.monotonic()
    with claim_device(spec.device) as device:
        on_gpu = str(device) != "cpu"
        embedder = EmbedModel.load(device=str(device))
        base = _base(spec, bases or Bases(), str(device)) if spec.model else None
        judges = _judges(embedder.model_id, spec.model)
        groups: list[Group] = []
        for name, paths, prompts in _asked(spec):
            groups.append(_judged(name, paths, prompts, spec, embedder, base))
            _measure_signals(groups[-1], paths, size=groups[0].clips[0].size)
            if on_event:
                on_event({"event": "judged", "group": name, "num_clips": len(paths)})
        if base is not None:
            base.settle()
    scores = [row for group in groups for row in _mean_rows(group, judges)]
    scores += _change_rows(groups, judges) + _distance_rows(groups, judges)
    shown = [group for group in groups if group.name != FOOTAGE]
    if spec.sheet_path:
        write_sheet(Path(spec.sheet_path), shown)
    wall_s = round(time.monotonic() - started_s, 3)
    return JudgeReport(
        scores=scores,
        clips=[row for group in shown for row in _clip_rows(group)],
        sheet_path=spec.sheet_path,
        versions={name: importlib.metadata.version(name) for name in ("torch", "av", "numpy")},
        wall_s=wall_s,
        gpu_s=wall_s if on_gpu else 0.0,
    )


def write_sheet(path: Path, groups: Sequence[Group]) -> None:
    """One row a prompt, the groups side by side: first, middle and last frame of each clip."""
    from gpu_jobs.train_world_model.folder import write_sheet as write_rows

    count = min(_MOST_ROWS, *(len(group.clips) for group in groups))
    height, width = groups[0].clips[0].frames.shape[1:3]
    size = (_TILE_WIDTH_PX, max(2, round(_TILE_WIDTH_PX * height / width)))
    rows = [[_shrunk(group.clips[row].frames, size) for group in groups] for row in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, rows, gap_px=_GAP_PX)


def _asked(spec: JudgeSpec) -> list[tuple[str, list[Path], list[str]]]:
    """Name, files and prompts of every group, footage last."""
    asked = [
        (str(group["name"]), [Path(path) for path in group["clips"]], list(group["prompts"]))
        for group in spec.groups
    ]
    if spec.footage_dir:
        videos = videos_of(Path(spec.footage_dir))
        if 0 < spec.num_footage < len(videos):
            spaced = np.linspace(0, len(videos) - 1, spec.num_footage).round().astype(int)
            videos = [videos[index] for index in spaced]
        asked.append((FOOTAGE, videos, []))
    return asked


def _judged(
    name: str,
    paths: Sequence[Path],
    prompts: list[str],
    spec: JudgeSpec,
    embedder: Any,
    base: Base | None,
) -> Group:
    """Everything that can be said of clips without looking at other groups."""
    group = Group(name, [read_clip(path, num_frames=spec.num_frames) for path in paths], prompts)
    vectors_ND = np.concatenate([embedder.embed_clips([clip.frames]) for clip in group.clips])
    group.features["kernel_distance_starter"] = vectors_ND.astype(np.float64)
    group.features["kernel_distance_latent"] = np.stack(
        [
            frame_statistics(clip) if base is None else _latent_features(base, path)
            for clip, path in zip(group.clips, paths, strict=True)
        ]
    )
    group.measured["temporal_consistency"] = [
        temporal_consistency(clip.luma) for clip in group.clips
    ]
    if prompts:
        texts_ND = embedder.embed_texts(prompts)
        group.measured["text_cosine"] = np.einsum("nd,nd->n", texts_ND, vectors_ND).tolist()
    return group


def _measure_signals(group: Group, paths: Sequence[Path], *, size: tuple[int, int]) -> None:
    """Sharpness and motion, which depend on the size: of footage only where it has that of samples."""
    if group.name == FOOTAGE and any(clip.size != size for clip in group.clips):
        return
    try:
        signals = [measure_clip(path.read_bytes()) for path in paths]
    except MalformedRecordError:
        if group.name == FOOTAGE:  # a user's own, of another codec
            return
        raise
    group.measured["sharpness"] = [one.sharpness for one in signals]
    group.measured["motion"] = [one.motion_mean_px for one in signals]


def _latent_features(base: Base, path: Path) -> Features:
    """Pooled latents of the first frames of a clip, as many as the autoencoder takes at once."""
    from gpu_jobs.posttrain.footage import FolderClip, Window, read_window
    from gpu_jobs.posttrain.spec import FootageClip
    from worldloop.cosmos.families import ClipShape

    num_frames, size = _length_and_size(path)
    family = base.world.family
    stride, multiple = family.frame_stride, family.multiple_px
    count = 1 + (min(num_frames, 1 + 2 * family.frame_stride) - 1) // stride * stride
    share = min(1.0, 512 / max(size))
    width, height = (max(multiple, round(side * share / multiple) * multiple) for side in size)
    clip = FolderClip(FootageClip(path.stem, path.stem), path, "", None, num_frames, 0.0)
    shape = ClipShape(count, width, height, family.shape.rate_fps)
    latent = base.encode_frames(read_window(clip, Window(0, 0, 1, count), shape))
    return pooled_latent(latent.numpy())


def _length_and_size(path: Path) -> tuple[int, tuple[int, int]]:
    import av

    with av.open(str(path)) as container:
        video = container.streams.video[0]
        count = video.frames or sum(1 for _ in container.decode(video))
        return count, (video.codec_context.width, video.codec_context.height)


def _mean_rows(group: Group, judges: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        _row(group.name, measure, judges, mean_interval(values, measure), len(values))
        for measure, values in sorted(group.measured.items())
    ]


def _change_rows(groups: Sequence[Group], judges: Mapping[str, str]) -> list[dict[str, Any]]:
    """Paired differences between neighbouring groups of the same prompts."""
    rows = []
    for before, after in _pairs(groups):
        for measure in sorted(before.measured.keys() & after.measured.keys()):
            both = zip(before.measured[measure], after.measured[measure], strict=True)
            change = mean_interval([new - old for old, new in both], measure)
            name = f"{after.name} - {before.name}"
            rows.append(_row(name, measure, judges, change, len(after.clips)))
    return rows


def _distance_rows(groups: Sequence[Group], judges: Mapping[str, str]) -> list[dict[str, Any]]:
    """Kernel distances to footage, where there is any, and their paired differences."""
    reference = next((group for group in groups if group.name == FOOTAGE), None)
    shown = [group for group in groups if group.name != FOOTAGE]
    if reference is None or len(reference.clips) < 2:
        return []
    rows = []
    for measure in sorted(reference.features):
        raw = [group.features[measure] for group in (reference, *shown)]
        if measure == "kernel_distance_latent":
            raw = scaled(raw, raw[0])
        distance = KernelDistance(raw[0], measure)
        spaces = dict(zip((group.name for group in shown), raw[1:], strict=True))
        rows += [
            _row(name, measure, judges, distance.to(features), len(features))
            for name, features in spaces.items()
            if len(features) > 1
        ]
        rows += [
            _row(
                f"{after.name} - {before.name}",
                measure,
                judges,
                distance.change(spaces[before.name], spaces[after.name]),
                len(after.clips),
            )
            for before, after in _pairs(shown)
            if len(after.clips) > 1
        ]
    return rows


def _pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    shown = [group for group in groups if group.name != FOOTAGE]
    return [
        (one, other) for one, other in itertools.pairwise(shown) if one.prompts == other.prompts
    ]


def _clip_rows(group: Group) -> list[dict[str, Any]]:
    return [
        {
            "group": group.name,
            "index": index,
            **{
                measure: group.measured[measure][index]
                for measure in _CLIP_MEASURES
                if measure in group.measured
            },
        }
        for index in range(len(group.clips))
    ]


def _row(
    group: str, measure: str, judges: Mapping[str, str], found: Estimate | Distance, count: int
) -> dict[str, Any]:
    value = found.mean if isinstance(found, Estimate) else found.value
    return {
        "group": group,
        "measure": measure,
        "judge": judges[measure],
        "value": value,
        "low": found.low,
        "high": found.high,
        "num_clips": count,
    }


def _judges(embedder: str, model: str) -> dict[str, str]:
    """Who gives each score."""
    return {
        "kernel_distance_starter": embedder,
        "kernel_distance_latent": f"autoencoder of {model}" if model else FRAME_STATISTICS,
        "text_cosine": embedder,
        "temporal_consistency": BLOCK_MATCHING,
        "sharpness": SIGNALS,
        "motion": SIGNALS,
    }


def _base(spec: JudgeSpec, bases: Bases, device: str) -> Base:
    precision = precision_of_weights(spec.precision)
    key = BaseKey(spec.model, spec.checkpoint_dir, spec.transformer_dir, precision, device)
    return bases.get(key)


def _shrunk(frames_THWC: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames_THWC])


def _check(spec: JudgeSpec) -> None:
    """Refuse what cannot be judged.

    Raises:
        MalformedRecordError: Naming the group.
    """
    names = [group.get("name") for group in spec.groups]
    if not names or len(set(names)) < len(names) or FOOTAGE in names:
        raise MalformedRecordError(
            "groups to judge", names, f"names, each once and none {FOOTAGE!r}", "Correct the spec."
        )
    for group in spec.groups:
        clips, prompts = group.get("clips", ()), group.get("prompts", ())
        gone = [Path(path).name for path in clips if not Path(path).is_file()]
        if not clips or len(clips) != len(prompts) or gone:
            found = {"clips": len(clips), "prompts": len(prompts), "not there": gone[:3]}
            raise MalformedRecordError(
                f"group {group['name']!r} to judge",
                json.dumps(found),
                "clips that are there, with one prompt each",
                "Generate the samples again.",
            )
