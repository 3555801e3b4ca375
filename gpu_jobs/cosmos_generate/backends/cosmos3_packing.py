"""Packs: where text, video, sound and actions stand in the one sequence that Cosmos 3 reads.

Order: text, then video (in transfer: every control, then the target), sound, actions. A pack holds
all that `Cosmos3OmniTransformer.forward` is told beside tokens and noise levels; it is built once
per prompt and clip. Positions come from the functions of the diffusers pipeline.
"""

# C channels, T frames, H height, W width, L tokens

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class VideoItem:
    """A video in the sequence.

    Attributes:
        latent: Of its shape, (1, C, T, H, W).
        num_clean: Leading latent frames without noise.
    """

    latent: torch.Tensor
    num_clean: int


@dataclass(frozen=True)
class Extras:
    """What stands behind the video.

    Attributes:
        sound: Latents of sound (C, L), or None.
        sound_rate: Latents of sound per second.
        actions: Actions (L, C) in the model's width, or None.
        actions_are_given: Whether they are conditions instead of noise.
        domain_id: Number of the embodiment, shape (1,).
    """

    sound: torch.Tensor | None = None
    sound_rate: float = 25.0
    actions: torch.Tensor | None = None
    actions_are_given: bool = False
    domain_id: torch.Tensor | None = None


@dataclass(frozen=True)
class Pack:
    """Arguments of `forward` for one prompt.

    Attributes:
        full: With the text.
        recalled: Without it, for passes after the first.
        num_noisy_video: Video tokens with noise.
        num_noisy_actions: Action tokens with noise.
    """

    full: dict[str, Any]
    recalled: dict[str, Any]
    num_noisy_video: int
    num_noisy_actions: int


def build_pack(
    pipeline: Any,
    ids: Sequence[int],
    videos: Sequence[VideoItem],
    extras: Extras,
    *,
    rate_fps: float,
    device: Any,
) -> Pack:
    """Lay out one prompt with a clip.

    Args:
        pipeline: A `Cosmos3OmniPipeline`, for its positions.
        ids: Tokens of the prompt.
        videos: Controls, then the target; all stand at the same positions in time and space.
        extras: Sound and actions.
        rate_fps: Frames per second of the clip.
        device: Where the transformer computes.
    """
    text = pipeline._prepare_text_segment(list(ids), device=device)
    offset, place = text["vision_start_temporal_offset"], text["und_len"]
    parts = []
    for video in videos:
        part = pipeline._prepare_vision_segment(
            input_vision_tokens=video.latent,
            has_image_condition=video.num_clean > 0,
            mrope_offset=offset,
            vision_fps=rate_fps,
            curr=place,
            device=device,
            condition_frame_indexes=list(range(video.num_clean)),
        )
        parts.append(part)
        place += part["num_vision_tokens"]
    full: dict[str, Any] = {
        "input_ids": text["input_ids"],
        "text_indexes": text["text_indexes"],
        "und_len": text["und_len"],
        "vision_token_shapes": _joined(parts, "vision_token_shapes"),
        "vision_noisy_frame_indexes": _joined(parts, "vision_noisy_frame_indexes"),
        "vision_sequence_indexes": torch.cat([part["vision_sequence_indexes"] for part in parts]),
        "vision_mse_loss_indexes": torch.cat([part["vision_mse_loss_indexes"] for part in parts]),
    }
    positions = [text["text_mrope_ids"], *(part["vision_mrope_ids"] for part in parts)]
    noisy_actions = 0
    if extras.sound is not None:
        sound = pipeline._prepare_sound_segment(
            input_sound_tokens=extras.sound,
            mrope_offset=offset,
            sound_fps=extras.sound_rate,
            curr=place,
            device=device,
        )
        place += _take(sound, "sound", full, positions)
    if extras.actions is not None:
        count = extras.actions.shape[0]
        actions = pipeline._prepare_action_segment(
            input_action_tokens=extras.actions,
            condition_frame_indexes=list(range(count)) if extras.actions_are_given else [],
            mrope_offset=offset,
            action_fps=rate_fps,
            curr=place,
            device=device,
        )
        place += _take(actions, "action", full, positions)
        full["action_domain_ids"] = [extras.domain_id]
        noisy_actions = actions["num_noisy_action_tokens"]
    full["position_ids"], full["sequence_length"] = torch.cat(positions, dim=1), place
    return Pack(
        full,
        _without_text(full),
        sum(part["num_noisy_vision_tokens"] for part in parts),
        noisy_actions,
    )


def _joined(parts: Sequence[dict[str, Any]], key: str) -> list[Any]:
    return [each for part in parts for each in part[key]]


def _take(
    segment: dict[str, Any], kind: str, full: dict[str, Any], positions: list[torch.Tensor]
) -> int:
    """Add a segment of sound or actions; its length."""
    for name in ("token_shapes", "sequence_indexes", "mse_loss_indexes", "noisy_frame_indexes"):
        full[f"{kind}_{name}"] = segment[f"{kind}_{name}"]
    positions.append(segment[f"{kind}_mrope_ids"])
    return int(segment[f"{kind}_len"])


def _without_text(full: dict[str, Any]) -> dict[str, Any]:
    """The same sequence without its text: every place moves forward by the text's length."""
    length = full["und_len"]
    moved = {
        name: value - length
        for name, value in full.items()
        if name.endswith(("_sequence_indexes", "_mse_loss_indexes"))
    }
    return {
        **full,
        **moved,
        "input_ids": full["input_ids"][:0],
        "text_indexes": full["text_indexes"][:0],
        "position_ids": full["position_ids"][:, length:],
        "und_len": 0,
        "sequence_length": full["sequence_length"] - length,
    }
