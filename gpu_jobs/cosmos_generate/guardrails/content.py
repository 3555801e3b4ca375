"""The content filter: every frame is classified, and one unsafe frame rejects the clip.

SigLIP's picture features go through a small classifier of seven classes. Both are published in
`video_content_safety_filter/`: `safety_filter.pt` and, in the layout of a download cache or as a
folder, google/siglip-so400m-patch14-384. Architecture and classes: nvidia-cosmos/cosmos-predict1,
cosmos_predict1/auxiliary/guardrail/video_content_safety_filter/{model,video_content_safety_filter,
vision_encoder}.py, commit 4ed35fa. As there, every frame of a generated clip is looked at; unlike
there, a frame that cannot be classified stops the clip.
"""

# B batch, T frames, C channels, H height, W width, D width of a feature

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from gpu_jobs.cosmos_generate.guardrails.folders import find_model
from gpu_jobs.cosmos_generate.guardrails.verdicts import Verdict
from worldloop.cosmos.guards import CONTENT
from worldloop.errors import JobFailedError

SIGLIP = "google/siglip-so400m-patch14-384"
WEIGHTS = "safety_filter.pt"
CLASSES = (  # video_content_safety_filter.py, CLASS_IDX_TO_NAME; ours beside the published ones
    ("Safe", ""),
    ("Sexual_Content", "sexual"),
    ("Violence", "violence"),
    ("Drugs", "drugs"),
    ("Child_Abuse", "minors"),
    ("Hate_and_Harassment", "hate"),
    ("Self-Harm", "self_harm"),
)
BATCH = 16  # frames a pass of the encoder
_UNREADABLE = (
    *(OSError, KeyError, RuntimeError, TypeError, AttributeError, EOFError),
    pickle.UnpicklingError,
)


class SafetyClassifier(nn.Module):  # type: ignore[misc] # torch is not typed here
    """Two hidden layers over a feature; the keys are those of the published weights."""

    def __init__(self, feature_width: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_width, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, num_classes),
        )

    def forward(self, feature_BD: torch.Tensor) -> torch.Tensor:
        """Logits, (B, classes)."""
        logits: torch.Tensor = self.layers(feature_BD)
        return logits


@dataclass
class VideoContentFilter:
    """The loaded filter.

    Attributes:
        parts: `encoder` (SigLIP's vision tower) and `classifier`.
        size_px: Side of the square that the encoder sees.
        mean: Per channel, of pixels in [0, 1].
        std: Likewise.
        resample: PIL's number of the interpolation.
        name: `content`.
    """

    parts: dict[str, Any]
    size_px: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = int(Image.Resampling.BICUBIC)
    name: str = field(default=CONTENT)

    @classmethod
    def load(cls, folder: Path, *, device: Any = "cpu") -> Self:
        """Load the filter from the published folder.

        Args:
            folder: `video_content_safety_filter`.
            device: Where the networks go; they compute in float32, as published.

        Raises:
            JobFailedError: If a file is missing or does not fit.
        """
        from gpu_jobs.cosmos_generate.guardrails.guards import not_installed

        if not (folder / WEIGHTS).is_file():
            raise not_installed(CONTENT, folder / WEIGHTS, "the classifier's weights")
        roots = [folder, *folder.parents[:3]]
        siglip = find_model(roots, SIGLIP)
        if siglip is None:
            raise not_installed(CONTENT, folder / SIGLIP, f"the picture encoder {SIGLIP}")
        encoder = _load_encoder(siglip)
        classifier = _load_classifier(folder / WEIGHTS, encoder.config.hidden_size)
        parts = {"encoder": encoder.to(device), "classifier": classifier.to(device)}
        return cls(parts, int(encoder.config.image_size), **_preprocessing(siglip))

    def check(self, frames_THWC: NDArray[np.uint8]) -> Verdict:
        """Whether all frames are safe; the first one that is not decides."""
        for start in range(0, len(frames_THWC), BATCH):
            classes = self._classify(frames_THWC[start : start + BATCH])
            for offset, found in enumerate(classes):
                if found != 0:
                    title, category = CLASSES[found]
                    reason = f"Frame {start + offset} of {len(frames_THWC)} is {title}."
                    return Verdict(False, CONTENT, category, reason, (CONTENT,))
        return Verdict(True, ran=(CONTENT,))

    def _classify(self, frames_BHWC: NDArray[np.uint8]) -> list[int]:
        """Class of each frame."""
        encoder, classifier = self.parts["encoder"], self.parts["classifier"]
        device = next(encoder.parameters()).device
        with torch.inference_mode():
            feature_BD = encoder(pixel_values=self._pixels(frames_BHWC).to(device)).pooler_output
            feature_BD = feature_BD / feature_BD.norm(dim=-1, keepdim=True)
            logits = classifier(feature_BD)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("the classifier's answer is not finite")
        return [int(found) for found in logits.argmax(dim=-1).cpu()]

    def _pixels(self, frames_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        """Frames as the encoder was trained on, float32 (B, C, H, W)."""
        side = (self.size_px, self.size_px)
        resized = [
            np.asarray(Image.fromarray(frame).resize(side, Image.Resampling(self.resample)))
            for frame in frames_BHWC
        ]
        unit = np.stack(resized).astype(np.float32) / 255.0
        scaled = (unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())


def _load_encoder(folder: Path) -> Any:
    """SigLIP's vision tower; the text tower of the published folder is not needed."""
    from gpu_jobs.common.torch_ops import import_diffusers

    import_diffusers()
    from transformers import SiglipConfig, SiglipVisionConfig, SiglipVisionModel

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        whole = config.get("model_type") == "siglip"
        if not whole and config.get("model_type") != "siglip_vision_model":
            raise ValueError(f"it holds a {config.get('model_type')!r} and not SigLIP")
        vision = (
            SiglipConfig.from_pretrained(folder).vision_config
            if whole
            else SiglipVisionConfig.from_pretrained(folder)
        )
        model, info = SiglipVisionModel.from_pretrained(
            folder,
            config=vision,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _does_not_fit(folder, str(error)) from error
    if info["missing_keys"]:
        raise _does_not_fit(folder, f"weights are missing: {sorted(info['missing_keys'])[:3]}")
    return model.eval()


def _load_classifier(path: Path, feature_width: int) -> SafetyClassifier:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["model"]
        weights = {key.removeprefix("network."): value for key, value in saved.items()}
        classifier = SafetyClassifier(feature_width, len(CLASSES))
        classifier.load_state_dict(weights)
    except _UNREADABLE as error:
        raise _does_not_fit(path, str(error)[:200]) from error
    classifier.eval()
    return classifier


def _preprocessing(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    config = json.loads(path.read_text(encoding="utf-8"))
    return {
        "mean": tuple(config.get("image_mean", (0.5, 0.5, 0.5))),
        "std": tuple(config.get("image_std", (0.5, 0.5, 0.5))),
        "resample": int(config.get("resample", Image.Resampling.BICUBIC)),
    }


def _does_not_fit(path: Path, why: str) -> JobFailedError:
    return JobFailedError(
        f"The guard 'content' cannot load {str(path)!r}: {why}. Download it again: worldloop models "
        "download --guardrail"
    )
