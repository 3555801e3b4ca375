"""Speed profiles, applied to a loaded model once; a policy is then made for every batch."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from gpu_jobs.cosmos_generate.protocol import Plain, StepPolicy, WorldModel
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.profiles import SpeedProfile

PolicyFactory = Callable[[], StepPolicy]

log = logging.getLogger(__name__)


def apply_profile(
    world_model: WorldModel, profile: SpeedProfile, *, shape: ClipShape, device: Any
) -> PolicyFactory:
    """Change a model's transformer as a profile says.

    Call it once per loaded model, before `Residency` is built (weights are replaced) and before the
    first batch. On a CPU nothing is compiled, attention is torch's and FP8 is emulated.

    Args:
        world_model: A loaded model; its `parts["transformer"]` is changed in place.
        profile: What may be traded.
        shape: Of every clip.
        device: Where the transformer will compute.

    Returns:
        Makes the policy of one batch.

    Raises:
        MalformedRecordError: If the profile cannot be had with this transformer, shape or GPU.
        MissingExtraError: If it needs transformer_engine, and that is not installed.
    """
    raise NotImplementedError
