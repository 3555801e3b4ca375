"""Control2World over Cosmos-1.0: a control branch beside the base model, for every control input.

A branch is a copy of the base model's first blocks. It reads the noisy latent; after its first block
the embedded control video is added, and what each of its blocks says is projected, scaled by
`control_weight`, and added to the output of the same block of the base model. Several branches are
summed, after weights that sum to more than 1 have been scaled down to 1.

Read is the layout of Transfer1's control models (`edge_control.pt`, `vis_control.pt`,
`depth_control.pt`, `seg_control.pt` of nvidia/Cosmos-Transfer1-7B), whose network is
cosmos_transfer1/diffusion/networks/general_dit_ctrl_enc.py (commit 5005e82). They were trained beside
that repository's own base model. Control models in NeMo's distributed layout are refused: their
names are not public.
"""

# B batch, C channels, T frames, H height, W width, L tokens, D width of a token

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.control_networks import ControlKey, control_weights
from gpu_jobs.cosmos_generate.backends.pipeline import to_model_range
from gpu_jobs.cosmos_generate.checkpoints.original import (
    BLOCK_COSMOS1,
    TOP_COSMOS1,
    check_names,
    network_tensors,
)
from gpu_jobs.cosmos_generate.protocol import Media, Module
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError

HINT_WIDTHS = (16, 16, 32, 32, 96, 96, 256)  # general_dit_ctrl_enc.py, GeneralDITEncoder.__init__
SHARED = tuple(name for name in TOP_COSMOS1 if not name.startswith(("norm_out", "proj_out")))
HEAD = re.compile(r"^final_layer\.")
BLOCK = re.compile(r"^blocks\.block(\d+)\.")


class ControlBranch(torch.nn.Module):  # type: ignore[misc]
    """The network that one kind of control video speaks through.

    Args:
        base: Settings of the base model.
        num_blocks: Blocks of the branch.
        hint_channels: Channels of the control latent; narrower ones are filled up with zeros.
    """

    def __init__(self, base: Any, *, num_blocks: int, hint_channels: int) -> None:
        super().__init__()
        import_diffusers()
        from diffusers.models.transformers import transformer_cosmos as parts

        width = base.num_attention_heads * base.attention_head_dim
        patch, self.hint_channels = tuple(base.patch_size), hint_channels
        self.patch_embed = parts.CosmosPatchEmbed(base.in_channels + 1, width, patch, bias=False)
        self.patch_embed_hint = parts.CosmosPatchEmbed(hint_channels + 1, width, patch, bias=False)
        self.rope = parts.CosmosRotaryPosEmbed(
            hidden_size=base.attention_head_dim,
            max_size=base.max_size,
            patch_size=patch,
            rope_scale=base.rope_scale,
        )
        self.learnable_pos_embed = parts.CosmosLearnablePositionalEmbed(
            hidden_size=width, max_size=base.max_size, patch_size=patch
        )
        self.time_embed = parts.CosmosEmbedding(width, width)
        self.hint_block = _hint_block(width)
        self.blocks = torch.nn.ModuleList(
            parts.CosmosTransformerBlock(
                num_attention_heads=base.num_attention_heads,
                attention_head_dim=base.attention_head_dim,
                cross_attention_dim=base.text_embed_dim,
                mlp_ratio=base.mlp_ratio,
                adaln_lora_dim=base.adaln_lora_dim,
            )
            for _ in range(num_blocks)
        )
        self.zero_blocks = torch.nn.ModuleList(
            torch.nn.Linear(width, width) for _ in range(num_blocks)
        )

    def forward(
        self,
        hint_BCTHW: torch.Tensor,
        *,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition_mask: torch.Tensor | None,
        padding_mask: torch.Tensor,
        fps: int | None,
    ) -> list[torch.Tensor]:
        """What the branch adds to each block, (B, L, D), before its weight.

        Args:
            hint_BCTHW: Latent of the control video, at the scale of the base model's latents.
            hidden_states: As the base model takes them, and so are the others.
            timestep: One per clip.
            encoder_hidden_states: Prompts.
            condition_mask: Marks given frames; None for Text2World.
            padding_mask: Zeros of the picture's size.
            fps: Frames per second.
        """
        if condition_mask is not None:
            hidden_states = torch.cat([hidden_states, condition_mask], dim=1)
        seen_BCTHW = _with_padding(hidden_states, padding_mask)
        missing = self.hint_channels - hint_BCTHW.shape[1]
        filled = torch.nn.functional.pad(hint_BCTHW, (0, 0, 0, 0, 0, 0, 0, missing))
        hint_BLD = self.hint_block(self.patch_embed_hint(_with_padding(filled, padding_mask)))
        hint_BLD = hint_BLD.flatten(1, 3)
        rotary, positions = self.rope(seen_BCTHW, fps=fps), self.learnable_pos_embed(seen_BCTHW)
        tokens_BLD = self.patch_embed(seen_BCTHW).flatten(1, 3)
        modulation, embedded = self.time_embed(tokens_BLD, timestep)
        added = []
        for index, (block, project) in enumerate(zip(self.blocks, self.zero_blocks, strict=True)):
            tokens_BLD = block(
                tokens_BLD, encoder_hidden_states, embedded, modulation, rotary, positions
            )
            if index == 0:
                tokens_BLD = tokens_BLD + hint_BLD
            added.append(project(tokens_BLD))
        return added


@dataclass(frozen=True)
class Guide1:
    """One control of a batch.

    Attributes:
        branch: Its network, on the device.
        weights: `control_weight` of every clip; 0 where a clip does not have it.
        hint: Latents of the control videos, (B, C, T, H, W).
    """

    branch: Module
    weights: tuple[float, ...]
    hint: torch.Tensor


class ControlledTransformer:
    """The base model with its branches, called as the base model is.

    Args:
        transformer: The base model; it is told to take additions after every block.
        guides: Controls of the batch.
    """

    def __init__(self, transformer: Module, guides: Sequence[Guide1]) -> None:
        self.transformer, self.guides, self.config = transformer, guides, transformer.config
        transformer.register_to_config(controlnet_block_every_n=1)

    def __call__(self, *, return_dict: bool = False, **inputs: Any) -> Any:
        """The output of the base model; inputs are its own."""
        num_layers = len(self.transformer.transformer_blocks)
        added: list[torch.Tensor | None] = [None] * num_layers
        for guide in self.guides:
            scale = _scale(guide.weights, inputs["hidden_states"])
            for index, said in enumerate(guide.branch(guide.hint, **inputs)):
                before = added[index]
                added[index] = said * scale if before is None else before + said * scale
        return self.transformer(
            block_controlnet_hidden_states=added, return_dict=return_dict, **inputs
        )


def controlled(
    world: Any, requests: Sequence[ClipRequest], media: Sequence[Media], *, device: Any
) -> Any:
    """The transformer that a batch of a Cosmos-1.0 model runs: the model's own, or with control branches.

    Branches are loaded when first asked for and kept in `world.parts` as `control:<kind>:<folder>`.
    Clips of a batch may differ in their controls.

    Args:
        world: A loaded `Cosmos1WorldModel`.
        requests: Of the batch; `Control.model_dir` is the path of a branch's folder.
        media: Their control videos.
        device: Where the batch runs; the video autoencoder must be there.

    Raises:
        MalformedRecordError: If a control has no model folder, or its branch does not fit the model.
    """
    weights = [control_weights(request) for request in requests]
    keys = list(dict.fromkeys(key for each in weights for key in each))
    transformer = world.parts["transformer"]
    if not keys:
        return transformer
    guides = []
    for key in keys:
        each = tuple(one.get(key, 0.0) for one in weights)
        branch = _branch_of(world, key).to(device)
        guides.append(Guide1(branch, each, _hint(world, key[0], media, device)))
    return ControlledTransformer(transformer, guides)


def _branch_of(world: Any, key: ControlKey) -> Module:
    """A branch of a model, loaded once."""
    kind, model_dir = key
    name = f"control:{kind}:{model_dir}"
    if name not in world.parts:
        if not model_dir:
            raise MalformedRecordError(
                f"{kind} control of {world.model.name}",
                "no control model folder",
                "one for every control input",
                "Name it with ctrl_model_dir.",
            )
        transformer = world.parts["transformer"]
        world.parts[name] = load_branch(Path(model_dir), kind, transformer, world.dtype)
    branch: Module = world.parts[name]
    return branch


def _hint(world: Any, kind: str, media: Sequence[Media], device: Any) -> torch.Tensor:
    """Latents of the control videos of a batch; black where a clip has none."""
    videos = [clip.controls.get(kind) for clip in media]
    like = next(video for video in videos if video is not None)
    filled = [np.zeros_like(like) if video is None else video for video in videos]
    autoencoder = world.parts["tokenizer"]
    video_BCTHW = to_model_range(np.stack(filled)).to(device, autoencoder.dtype)
    sigma_data = world.scheduler().config.sigma_data
    hint: torch.Tensor = world.encoded_video(video_BCTHW, sigma_data).to(world.dtype)
    return hint


def load_branch(folder: Path, kind: str, transformer: Module, dtype: torch.dtype) -> Module:
    """A control branch, on the CPU.

    Args:
        folder: Holds `<kind>_control.pt` or one `.pt` file, or is the file itself.
        kind: `edge`, `blur` (`vis`), `depth` or `seg`.
        transformer: The base model it has to fit.
        dtype: Precision of weights; learnable positions stay in float32.

    Raises:
        MalformedRecordError: If there is no file, or it was made for another base model.
    """
    path = _file_of(folder, kind)
    state = {key: value for key, value in network_tensors(path).items() if not HEAD.match(key)}
    num_blocks = 1 + max((int(m.group(1)) for key in state if (m := BLOCK.match(key))), default=-1)
    names = branch_key_map(num_blocks)
    check_names(set(names.values()), set(state), path)
    hint_in = int(state["x_embedder2.proj.1.weight"].shape[1]) // 4
    with torch.device("meta"):
        branch = ControlBranch(transformer.config, num_blocks=num_blocks, hint_channels=hint_in - 1)
    _check_shapes(branch, state, names, path)
    weights = {
        ours: state[theirs].to(torch.float32 if "learnable_pos_embed" in ours else dtype)
        for ours, theirs in names.items()
    }
    branch.load_state_dict(weights, strict=True, assign=True)
    return branch.eval()


def branch_key_map(num_blocks: int) -> dict[str, str]:
    """Every tensor of a branch: our name to the name in `<kind>_control.pt` without `net.`."""
    names = {ours: TOP_COSMOS1[ours] for ours in SHARED}
    names["patch_embed_hint.proj.weight"] = "x_embedder2.proj.1.weight"
    for index in range(0, 2 * len(HINT_WIDTHS) + 1, 2):
        for part in ("weight", "bias"):
            names[f"hint_block.{index}.{part}"] = f"input_hint_block.{index}.{part}"
    for block in range(num_blocks):
        for part in ("weight", "bias"):
            names[f"zero_blocks.{block}.{part}"] = f"zero_blocks.block{block}.{part}"
        for ours, theirs in BLOCK_COSMOS1.items():
            names[f"blocks.{block}.{ours}"] = f"blocks.block{block}.{theirs}"
    return names


def _hint_block(width: int) -> Module:
    """Small linear layers with SiLU between them, and one back to the width of a token."""
    layers: list[Module] = []
    widths = (width, *HINT_WIDTHS)
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.SiLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], width))


def _with_padding(latent_BCTHW: torch.Tensor, padding_11HW: torch.Tensor) -> torch.Tensor:
    """Latents with one more channel that marks padding."""
    batch, _, num_frames, height, width = latent_BCTHW.shape
    small = torch.nn.functional.interpolate(padding_11HW, size=(height, width), mode="nearest")
    mark = small[:, :, None].expand(batch, 1, num_frames, height, width)
    return torch.cat([latent_BCTHW, mark.to(latent_BCTHW.dtype)], dim=1)


def _scale(weights: Sequence[float], like: torch.Tensor) -> Any:
    """One number if all clips agree, or one per clip, (B, 1, 1)."""
    if len(set(weights)) == 1:
        return weights[0]
    return torch.tensor(weights, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _check_shapes(
    branch: Module, state: Mapping[str, Any], names: Mapping[str, str], path: Path
) -> None:
    for ours, tensor in branch.state_dict().items():
        found = tuple(state[names[ours]].shape)
        if found != tuple(tensor.shape):
            raise MalformedRecordError(
                f"control model {path.name}, {names[ours]}",
                found,
                f"{tuple(tensor.shape)}, as its base model needs",
                "Use a control model that was trained for this base model.",
            )


def _file_of(folder: Path, kind: str) -> Path:
    if folder.is_file():
        return folder
    aliases = {"blur": ("blur", "vis"), "vis": ("vis", "blur")}.get(kind, (kind,))
    named = [folder / f"{name}_control.pt" for name in aliases]
    found = [path for path in named if path.is_file()] or sorted(folder.glob("*.pt"))
    if len(found) != 1:
        raise MalformedRecordError(
            f"control model for {kind!r} in {folder.name}",
            [path.name for path in found] or "no .pt file",
            f"{named[0].name}, or one .pt file, in the layout of Transfer1",
            "Name the folder of the control model with ctrl_model_dir; NeMo's distributed control "
            "models cannot be read.",
        )
    return found[0]
