"""Comparing two clips by their pixels, and keeping a few frames of each for later measurements."""

# T frames, C channels, H height, W width

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from worldloop.curation.spacing import spaced_indices
from worldloop.errors import MalformedRecordError

Frames = NDArray[np.uint8]

KEPT_FRAMES = 5  # stills of a clip that the embedder sees
PART_MB = 14.0  # of a file of kept frames
_SSIM_RADIUS, _SSIM_SIGMA = 5, 1.5  # Wang et al. 2004, with its constants
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_LUMA = (0.2126, 0.7152, 0.0722)  # BT.709


def compare(frames: Frames, reference: Frames, *, device: Any = "cpu") -> dict[str, float]:
    """How a clip differs from the dense run, by its pixels.

    Args:
        frames: uint8 (T, H, W, 3).
        reference: Likewise.
        device: Where to compute.

    Returns:
        psnr_db (at most 100), ssim (of luma, mean over frames), and detail_ratio and motion_ratio:
        mean absolute difference of neighbours in space and in time, over that of the reference.
    """
    import torch

    one, other = (
        torch.from_numpy(np.ascontiguousarray(f)).to(device).float() for f in (frames, reference)
    )
    error = float((one - other).square().mean())
    weights = torch.tensor(_LUMA, device=one.device)
    luma, wanted = one @ weights, other @ weights
    return {
        "psnr_db": min(100.0, 10 * float(np.log10(255.0**2 / max(error, 1e-9)))),
        "ssim": _ssim(luma, wanted),
        "detail_ratio": _detail(luma) / max(_detail(wanted), 1e-6),
        "motion_ratio": _motion(luma) / max(_motion(wanted), 1e-6),
    }


def write_frames(
    folder: Path, clips: Mapping[str, Sequence[Frames]], *, count: int = KEPT_FRAMES
) -> list[Path]:
    """Keep some frames of each clip without loss, in files of at most `PART_MB`.

    Args:
        folder: Gets `frames-<n>.npz`, each with PNG bytes by name `<variant>/<prompt>/<frame>`.
        clips: Clips of each variant, in the order of the prompts.
        count: Evenly spaced frames of each clip to keep.
    """
    parts: list[dict[str, NDArray[np.uint8]]] = [{}]
    size = 0
    for variant, shown in clips.items():
        for prompt, frames in enumerate(shown):
            for index in spaced_indices(len(frames), count=count):
                png = _png(frames[index])
                if size + len(png) > PART_MB * 1e6:
                    parts.append({})
                    size = 0
                parts[-1][f"{variant}/{prompt}/{index}"] = np.frombuffer(png, np.uint8)
                size += len(png)
    paths = []
    for number, part in enumerate(parts):
        paths.append(folder / f"frames-{number}.npz")
        np.savez(paths[-1], **part)  # type: ignore[arg-type]
    return paths


def read_frames(folder: Path) -> dict[str, list[Frames]]:
    """What `write_frames` kept: (K, H, W, 3) per prompt of each variant.

    Raises:
        MalformedRecordError: If there is nothing.
    """
    found: dict[str, dict[int, list[tuple[int, Frames]]]] = {}
    for path in sorted(folder.glob("frames-*.npz")):
        with np.load(path, allow_pickle=False) as part:
            for name in part.files:
                variant, prompt, index = name.rsplit("/", 2)
                with Image.open(io.BytesIO(part[name].tobytes())) as still:
                    picture = np.asarray(still.convert("RGB"))
                found.setdefault(variant, {}).setdefault(int(prompt), []).append(
                    (int(index), picture)
                )
    if not found:
        raise MalformedRecordError(
            f"generated folder {folder.name}", "no frames-*.npz", "kept frames", "Generate again."
        )
    return {
        variant: [np.stack([f for _, f in sorted(of[p], key=lambda x: x[0])]) for p in sorted(of)]
        for variant, of in found.items()
    }


def write_sheet(
    path: Path, dense: Sequence[Frames], other: Sequence[Frames], *, title: str, max_rows: int = 8
) -> None:
    """Dense run on the left, another on the right: first, middle and last frame of each clip."""
    rows = []
    for one, two in list(zip(dense, other, strict=True))[:max_rows]:
        tiles = [clip[i] for clip in (one, two) for i in (0, len(clip) // 2, len(clip) - 1)]
        rows.append(np.concatenate(tiles, axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    ImageDraw.Draw(picture).text((4, 2), title, fill=(255, 255, 0))
    picture.save(path, "PNG", optimize=True)


def write_json(path: Path, record: Any) -> None:
    """Write JSON beside its place, then rename."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    part.replace(path)


def _ssim(one_THW: Any, other_THW: Any) -> float:
    import torch

    kernel = _gaussian(one_THW.device)

    def mean(x: Any) -> Any:
        return torch.nn.functional.conv2d(x.unsqueeze(1), kernel)

    mean_1, mean_2 = mean(one_THW), mean(other_THW)
    var_1 = mean(one_THW.square()) - mean_1.square()
    var_2 = mean(other_THW.square()) - mean_2.square()
    both = mean(one_THW * other_THW) - mean_1 * mean_2
    top = (2 * mean_1 * mean_2 + _C1) * (2 * both + _C2)
    bottom = (mean_1.square() + mean_2.square() + _C1) * (var_1 + var_2 + _C2)
    return float((top / bottom).mean())


def _gaussian(device: Any) -> Any:
    import torch

    offset = torch.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1, device=device, dtype=torch.float32)
    line = torch.exp(-offset.square() / (2 * _SSIM_SIGMA**2))
    square = torch.outer(line, line)
    return (square / square.sum())[None, None]


def _detail(luma_THW: Any) -> float:
    return float(luma_THW.diff(dim=1).abs().mean() + luma_THW.diff(dim=2).abs().mean())


def _motion(luma_THW: Any) -> float:
    return float(luma_THW.diff(dim=0).abs().mean()) if len(luma_THW) > 1 else 0.0


def _png(frame: Frames) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "PNG", optimize=True)
    return sink.getvalue()
