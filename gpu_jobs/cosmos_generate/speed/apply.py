"""Speed profiles, applied to a loaded model once; a policy is then made for every batch."""

import json
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from gpu_jobs.cosmos_generate.protocol import Plain, StepPolicy, WorldModel
from gpu_jobs.cosmos_generate.speed import blocks, fp8, layers3, te
from gpu_jobs.cosmos_generate.speed.attention import Attending, dense_attention
from gpu_jobs.cosmos_generate.speed.compiled import compiler
from gpu_jobs.cosmos_generate.speed.parallel import check_heads, ranks_of
from gpu_jobs.cosmos_generate.speed.policy import Density, ProfilePolicy
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.profiles import SpeedProfile
from worldloop.errors import MalformedRecordError

PolicyFactory = Callable[[], StepPolicy]

log = logging.getLogger(__name__)


def apply_profile(
    world_model: WorldModel, profile: SpeedProfile, *, shape: ClipShape, device: Any
) -> PolicyFactory:
    """Change a model's transformer as a profile says.

    Call it once per loaded model, before `Residency` is built (weights are replaced) and before the
    first batch. On a CPU nothing is compiled, attention is torch's and FP8 is emulated. Under
    `torchrun` tokens are shared by all processes, with any profile.

    Args:
        world_model: A loaded model; its `parts["transformer"]` is changed in place.
        profile: What may be traded.
        shape: Of every clip.
        device: Where the transformer will compute.

    Returns:
        Makes the policy of one batch.

    Raises:
        MalformedRecordError: If the profile cannot be had with this transformer or GPU.
        MissingExtraError: If it needs transformer_engine, and that is not installed.
    """
    density = apply_to(world_model.parts["transformer"], profile, device=device)
    words = {"event": "profile_applied", "profile": profile.name, "frames": shape.num_frames}
    log.info(json.dumps(words))
    if _changes_no_pass(profile):
        return Plain
    return lambda: ProfilePolicy(profile, density)


def apply_to(transformer: Any, profile: SpeedProfile, *, device: Any) -> Density:
    """Change a transformer as a profile says; see `apply_profile`.

    Returns:
        What tells its attention whether the current step is dense.
    """
    device = torch.device(device)
    started = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    ranks, density = ranks_of(started), Density()
    if _changes_no_weight(profile) and ranks.size == 1:
        return density
    install, repeated, swap_one = _known(transformer, profile)
    check_heads(
        repeated[0].attn1.heads if install is blocks.install else _kv_heads(repeated), ranks
    )
    dense = dense_attention(profile.attention, device)
    _swap(repeated, swap_one, profile, device)
    compiled = compiler(device) if profile.compile else _as_it_is
    install(
        transformer,
        Attending(dense, density, ranks),
        density=profile.density,
        ranks=ranks,
        compiled=compiled,
    )
    return density


def _swap(repeated: Any, swap_one: Any, profile: SpeedProfile, device: torch.device) -> None:
    """Put FP8 layers in the place of the large linear layers."""
    if profile.linears == "native":
        return
    if profile.linears == "fp8_te":
        te.check_gpu(device)
        layer: Any = te.TELinear
    else:
        fp8.check_gpu(device)
        layer = fp8.FP8Linear
    for block in repeated:
        swap_one(block, lambda linears: layer(linears, device))


def _known(transformer: Any, profile: SpeedProfile) -> tuple[Any, Any, Any]:
    """How a transformer is changed: what installs fast blocks, its blocks, what swaps in one."""
    if hasattr(transformer, "transformer_blocks") and hasattr(transformer, "patch_embed"):
        return blocks.install, list(transformer.transformer_blocks), fp8.swap_block
    if hasattr(transformer, "layers") and hasattr(transformer, "proj_in"):
        return layers3.install, list(transformer.layers), fp8.swap_layer
    raise MalformedRecordError(
        f"transformer for the profile {profile.name!r}",
        type(transformer).__name__,
        "CosmosTransformer3DModel or Cosmos3OmniTransformer",
        "Choose the profile 'exact' for this model.",
    )


def _kv_heads(repeated: Any) -> int:
    return int(repeated[0].self_attn.num_key_value_heads)


def _changes_no_weight(profile: SpeedProfile) -> bool:
    """Whether the transformer computes as diffusers does."""
    return (profile.compile, profile.attention, profile.linears, profile.density) == (
        False,
        "native",
        "native",
        1.0,
    )


def _changes_no_pass(profile: SpeedProfile) -> bool:
    """Whether every pass of every step runs in the same way."""
    plain = SpeedProfile(profile.name)
    names = ("density", "cache_every", "guidance_from", "guidance_until")
    return all(getattr(profile, name) == getattr(plain, name) for name in names)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
