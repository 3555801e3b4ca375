"""The face filter: faces of 20 x 20 pixels and more are pixelated in every frame, and counted.

Detection is RetinaFace on a ResNet-50, from the published `face_blur_filter/Resnet50_Final.pth`. The
network is written here with that file's keys, so that no other package is needed; sizes are read
from the weights. Thresholds and pixelation: nvidia-cosmos/cosmos-predict1, cosmos_predict1/auxiliary/
guardrail/face_blur_filter/{face_blur_filter,blur_utils,retinaface_utils}.py, commit 4ed35fa; anchors:
biubug6/Pytorch_Retinaface, data/config.py (cfg_re50) and layers/functions/prior_box.py.
"""

# B batch, T frames, C channels, H height, W width, A anchors

import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from worldloop.cosmos.guards import FACES
from worldloop.errors import JobFailedError

WEIGHTS = "Resnet50_Final.pth"
MIN_SIDE_PX = 20
CONFIDENCE = 0.7
NMS_IOU = 0.4
TOP_K, KEEP_TOP_K = 5_000, 750
BLOCKS = 5
BATCH = 4  # frames a pass of the detector
STEPS, ANCHOR_SIDES = (8, 16, 32), ((16, 32), (64, 128), (256, 512))
VARIANCES = (0.1, 0.2)
_MEAN_BGR = (104.0, 117.0, 123.0)
_FACE = 1


class FaceDetector(Protocol):
    """Finds faces."""

    def boxes(self, frames_BHWC: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Boxes of each frame: x1, y1, x2, y2 in pixels, float32 (faces, 4)."""


@dataclass
class FacePixelation:
    """Pixelates what a detector finds.

    Attributes:
        detector: Finds faces.
        parts: Its network as `detector`.
        name: `faces`.
    """

    detector: FaceDetector
    parts: dict[str, Any] = field(default_factory=dict)
    name: str = field(default=FACES)

    @classmethod
    def load(cls, folder: Path, *, device: Any = "cpu") -> Self:
        """Load the filter from the published folder.

        Args:
            folder: `face_blur_filter`.
            device: Where the network goes; it computes in float32, as published.

        Raises:
            JobFailedError: If the weights are missing or do not fit.
        """
        from gpu_jobs.cosmos_generate.guardrails.guards import not_installed

        path = folder / WEIGHTS
        if not path.is_file():
            raise not_installed(FACES, path, "the weights of the face detector")
        network = load_retina_face(path).to(device)
        return cls(RetinaFaceDetector(network), {"detector": network})

    def pixelate(self, frames_THWC: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """Pixelate faces.

        Args:
            frames_THWC: RGB uint8; left as it is.

        Returns:
            The frames, a copy if a face was found, and the number of pixelated boxes over all frames.
        """
        found: list[tuple[int, tuple[int, int, int, int]]] = []
        for start in range(0, len(frames_THWC), BATCH):
            batch = self.detector.boxes(frames_THWC[start : start + BATCH])
            for offset, boxes in enumerate(batch):
                found += [(start + offset, box) for box in large_boxes(boxes, frames_THWC.shape)]
        if not found:
            return frames_THWC, 0
        changed = frames_THWC.copy()
        for index, (x1, y1, x2, y2) in found:
            changed[index, y1:y2, x1:x2] = pixelate(changed[index, y1:y2, x1:x2])
        return changed, len(found)


def large_boxes(
    boxes: NDArray[np.float32], shape_THWC: tuple[int, ...]
) -> Iterable[tuple[int, int, int, int]]:
    """Boxes of at least `MIN_SIDE_PX` each way, in whole pixels and within the frame."""
    height, width = shape_THWC[1], shape_THWC[2]
    far = 4.0 * max(height, width)  # whole pixels of what lies beyond would overflow
    for x1, y1, x2, y2 in boxes.clip(-far, far).astype(int).tolist():
        if x2 - x1 < MIN_SIDE_PX or y2 - y1 < MIN_SIDE_PX:
            continue
        inside = (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
        if inside[2] > inside[0] and inside[3] > inside[1]:
            yield inside


def pixelate(region_HWC: NDArray[np.uint8], *, blocks: int = BLOCKS) -> NDArray[np.uint8]:
    """Squares instead of a picture: scaled down bilinearly to `blocks` a side, then up to the nearest.

    Example:
        >>> len(np.unique(pixelate(np.arange(3 * 40 * 40, dtype=np.uint8).reshape(40, 40, 3))[..., 0])) <= 25
        True
    """
    height, width = region_HWC.shape[:2]
    rows, columns = _centres(height, blocks), _centres(width, blocks)
    small = _bilinear(region_HWC.astype(np.float32), rows, columns)
    down = np.floor(np.arange(height) * (blocks / height)).astype(int)
    across = np.floor(np.arange(width) * (blocks / width)).astype(int)
    coarse = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    pixelated: NDArray[np.uint8] = coarse[down.clip(max=blocks - 1)][:, across.clip(max=blocks - 1)]
    return pixelated


def _centres(length: int, blocks: int) -> NDArray[np.float32]:
    """Where samples lie between pixel centres."""
    centres = (np.arange(blocks, dtype=np.float32) + 0.5) * (length / blocks) - 0.5
    return centres.clip(0, length - 1)


def _bilinear(
    picture_HWC: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom = np.minimum(top + 1, picture_HWC.shape[0] - 1)
    right = np.minimum(left + 1, picture_HWC.shape[1] - 1)
    down, across = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper = picture_HWC[top][:, left] * (1 - across) + picture_HWC[top][:, right] * across
    lower = picture_HWC[bottom][:, left] * (1 - across) + picture_HWC[bottom][:, right] * across
    mixed: NDArray[np.float32] = upper * (1 - down) + lower * down
    return mixed


@dataclass
class RetinaFaceDetector:
    """RetinaFace with its anchors and the suppression of overlapping boxes."""

    network: "RetinaFace"

    def boxes(self, frames_BHWC: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Boxes of each frame: x1, y1, x2, y2 in pixels, float32 (faces, 4)."""
        height, width = frames_BHWC.shape[1:3]
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            rgb = torch.from_numpy(np.ascontiguousarray(frames_BHWC)).to(device)
            bgr_BCHW = rgb.permute(0, 3, 1, 2)[:, [2, 1, 0]].float()
            mean = torch.tensor(_MEAN_BGR, device=device).view(1, 3, 1, 1)
            offsets_BA4, scores_BA2 = self.network(bgr_BCHW - mean)
            if not bool(torch.isfinite(scores_BA2).all() & torch.isfinite(offsets_BA4).all()):
                raise ValueError("the face detector's answer is not finite")
            anchors_A4 = anchors(height, width).to(device)
            boxes_BA4 = decode_boxes(offsets_BA4, anchors_A4)
            boxes_BA4 = boxes_BA4 * torch.tensor([width, height, width, height], device=device)
        return [
            suppress_overlaps(boxes.cpu().numpy(), scores.cpu().numpy())
            for boxes, scores in zip(boxes_BA4, scores_BA2[..., _FACE], strict=True)
        ]


def anchors(height_px: int, width_px: int) -> torch.Tensor:
    """Anchors as centre x, centre y, width, height in shares of the frame, float32 (A, 4)."""
    levels = []
    for step, sides in zip(STEPS, ANCHOR_SIDES, strict=True):
        rows = (torch.arange(-(-height_px // step)) + 0.5) * step / height_px
        columns = (torch.arange(-(-width_px // step)) + 0.5) * step / width_px
        side = torch.tensor(sides, dtype=torch.float32)
        cy, cx, side = torch.meshgrid(rows, columns, side, indexing="ij")
        levels.append(torch.stack([cx, cy, side / width_px, side / height_px], -1).reshape(-1, 4))
    return torch.cat(levels)


def decode_boxes(offsets_BA4: torch.Tensor, anchors_A4: torch.Tensor) -> torch.Tensor:
    """Boxes as x1, y1, x2, y2 in shares of the frame, from what the network says of each anchor."""
    centre = anchors_A4[:, :2] + offsets_BA4[..., :2] * VARIANCES[0] * anchors_A4[:, 2:]
    size = anchors_A4[:, 2:] * torch.exp(offsets_BA4[..., 2:] * VARIANCES[1])
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def suppress_overlaps(
    boxes: NDArray[np.float32], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Boxes that are likely faces, the likeliest of each that overlap, float32 (faces, 4)."""
    likely = np.flatnonzero(scores > CONFIDENCE)
    order = likely[np.argsort(-scores[likely], kind="stable")][:TOP_K]
    kept: list[int] = []
    while order.size and len(kept) < KEEP_TOP_K:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        order = rest[_overlap(boxes[first], boxes[rest]) <= NMS_IOU]
    return boxes[kept]


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union, with sides that count both of their pixels, as published."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inter = np.prod(np.maximum(0, high - low + 1), axis=1)
    area = np.prod(box[2:] - box[:2] + 1)
    areas = np.prod(others[:, 2:] - others[:, :2] + 1, axis=1)
    union: NDArray[np.float32] = inter / (area + areas - inter)
    return union


class _Bottleneck(nn.Module):  # type: ignore[misc] # torch is not typed here
    """A block of ResNet-50."""

    def __init__(self, width_in: int, planes: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.downsample = None
        if stride != 1 or width_in != width_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        skip = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        h = functional.relu(self.bn1(self.conv1(x_BCHW)))
        h = functional.relu(self.bn2(self.conv2(h)))
        return functional.relu(self.bn3(self.conv3(h)) + skip)


class _Body(nn.Module):  # type: ignore[misc] # torch is not typed here
    """ResNet without its head; gives the outputs of its last three stages."""

    def __init__(self, stem: int, planes: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        width = stem
        for stage, (plane, depth) in enumerate(zip(planes, depths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(_Bottleneck(width, plane, 4 * plane, stride))
                width = 4 * plane
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """Features at strides 8, 16 and 32."""
        h = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x_BCHW))), 3, 2, 1)
        features = []
        for stage in range(1, 5):
            h = getattr(self, f"layer{stage}")(h)
            features.append(h)
        return features[1:]


def _conv_bn(width_in: int, width_out: int, kernel: int, leak: float | None) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(width_in, width_out, kernel, 1, kernel // 2, bias=False),
        nn.BatchNorm2d(width_out),
    ]
    return nn.Sequential(*layers, *([] if leak is None else [nn.LeakyReLU(leak)]))


class _Pyramid(nn.Module):  # type: ignore[misc] # torch is not typed here
    """Feature pyramid: every level sees the coarser ones."""

    def __init__(self, widths: tuple[int, ...], width: int, leak: float) -> None:
        super().__init__()
        for level, width_in in enumerate(widths):
            setattr(self, f"output{level + 1}", _conv_bn(width_in, width, 1, leak))
        self.merge1 = _conv_bn(width, width, 3, leak)
        self.merge2 = _conv_bn(width, width, 3, leak)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Three levels of one width."""
        fine, middle, coarse = (
            getattr(self, f"output{i + 1}")(feature) for i, feature in enumerate(features)
        )
        middle = self.merge2(
            middle + functional.interpolate(coarse, size=middle.shape[-2:], mode="nearest")
        )
        fine = self.merge1(
            fine + functional.interpolate(middle, size=fine.shape[-2:], mode="nearest")
        )
        return [fine, middle, coarse]


class _Context(nn.Module):  # type: ignore[misc] # torch is not typed here
    """Three sizes of surroundings side by side; published as SSH."""

    def __init__(self, width: int, leak: float) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.conv3X3 = _conv_bn(width, half, 3, None)
        self.conv5X5_1 = _conv_bn(width, quarter, 3, leak)
        self.conv5X5_2 = _conv_bn(quarter, quarter, 3, None)
        self.conv7X7_2 = _conv_bn(quarter, quarter, 3, leak)
        self.conv7x7_3 = _conv_bn(quarter, quarter, 3, None)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Features of the same width."""
        shared = self.conv5X5_1(x_BCHW)
        wide = self.conv7x7_3(self.conv7X7_2(shared))
        return functional.relu(
            torch.cat([self.conv3X3(x_BCHW), self.conv5X5_2(shared), wide], dim=1)
        )


class _Head(nn.Module):  # type: ignore[misc] # torch is not typed here
    """Numbers for every anchor."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(width, 2 * numbers, 1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, A, numbers)."""
        out: torch.Tensor = self.conv1x1(x_BCHW).permute(0, 2, 3, 1)
        return out.reshape(out.shape[0], -1, self.numbers)


class RetinaFace(nn.Module):  # type: ignore[misc] # torch is not typed here
    """The detector; its keys are those of the published weights."""

    def __init__(
        self,
        *,
        stem: int = 64,
        planes: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (3, 4, 6, 3),
        width: int = 256,
    ) -> None:
        super().__init__()
        leak = 0.1 if width <= 64 else 0.0  # models/net.py of Pytorch_Retinaface
        self.body = _Body(stem, planes, depths)
        self.fpn = _Pyramid(tuple(4 * plane for plane in planes[1:]), width, leak)
        self.ssh1, self.ssh2, self.ssh3 = (_Context(width, leak) for _ in range(3))
        self.ClassHead = nn.ModuleList(_Head(width, 2) for _ in range(3))
        self.BboxHead = nn.ModuleList(_Head(width, 4) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(_Head(width, 10) for _ in range(3))

    def forward(self, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Box offsets (B, A, 4) and scores (B, A, 2). Landmarks are not needed."""
        levels = self.fpn(self.body(x_BCHW))
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        features = [context(level) for context, level in zip(contexts, levels, strict=True)]
        offsets = [head(f) for head, f in zip(self.BboxHead, features, strict=True)]
        scores = [head(f) for head, f in zip(self.ClassHead, features, strict=True)]
        return torch.cat(offsets, dim=1), torch.cat(scores, dim=1).softmax(dim=-1)


def load_retina_face(path: Path) -> RetinaFace:
    """The network with the sizes and weights of a file.

    Raises:
        JobFailedError: If the file cannot be read or holds something else.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved = saved.get("state_dict", saved)
        weights = {key.removeprefix("module."): value for key, value in saved.items()}
        network = RetinaFace(**_sizes(weights))
        network.load_state_dict(weights)
    except (OSError, KeyError, RuntimeError, AttributeError, EOFError, pickle.UnpicklingError) as e:
        raise JobFailedError(
            f"The guard 'faces' cannot load {str(path)!r}: {str(e)[:200]}. Download it again: worldloop "
            "models download --guardrail"
        ) from e
    network.eval()
    return network


def _sizes(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Widths and depths that the weights have."""
    depths = tuple(
        len({key.split(".")[2] for key in weights if key.startswith(f"body.layer{stage}.")})
        for stage in range(1, 5)
    )
    return {
        "stem": weights["body.conv1.weight"].shape[0],
        "planes": tuple(weights[f"body.layer{s}.0.conv1.weight"].shape[0] for s in range(1, 5)),
        "depths": depths,
        "width": weights["fpn.merge1.0.weight"].shape[0],
    }
