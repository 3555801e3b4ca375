"""Video autoencoders ("tokenizers") of Cosmos-1.0, Predict1 and Predict2, from either layout.

A diffusers folder brings `vae/`. In the makers' layout Cosmos-1.0 has a folder of TorchScript
archives (`encoder.jit`, `decoder.jit`) with `mean_std.pt` beside them, and Predict2 has the Wan 2.1
weights in `tokenizer/tokenizer.pth`. Their tensors are taken and the networks are diffusers', which
can be compiled and decoded in chunks; archives whose tensors are frozen in are run as they are.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gpu_jobs.cosmos_generate.checkpoints.jit_tokenizer import load_jit_tokenizer
from worldloop.errors import MalformedRecordError

ENCODER, DECODER, STATISTICS = "encoder.jit", "decoder.jit", "mean_std.pt"
WAN_FILE = "tokenizer.pth"

# diffusers name -> original name; the first rule that fits a place in a name is used, from the top
_RULES = (
    (r"down_blocks\.(\d+)", r"down.\1"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1.0"),
    (r"mid_block\.temp_attentions\.0", "mid.attn_1.1"),
    (r"resnets\.(\d+)", r"block.\1"),
    (r"(down|up)samplers\.0\.(conv\d)", r"\1sample.\2.conv3d"),
    (r"conv_shortcut", "nin_shortcut.conv3d"),
    (r"conv_s\b", "0.conv3d"),
    (r"conv_t\b", "1.conv3d"),
    (r"to_([qkv])\b", r"\1.conv3d"),
    (r"to_out\.0", "proj_out.conv3d"),
    (r"quant_conv", "quant_conv.conv3d"),
)


def load_cosmos_autoencoder(folder: Path, dtype: torch.dtype) -> Any:
    """The CV8x8x8 autoencoder of Cosmos-1.0 and Predict1, on the CPU.

    Args:
        folder: A diffusers `vae/`, or a folder of TorchScript archives.
        dtype: Precision of the weights.

    Raises:
        MalformedRecordError: If a file is missing, or its tensors are not of such a network.
    """
    from diffusers import AutoencoderKLCosmos

    if (folder / "config.json").exists() and not (folder / ENCODER).exists():
        return AutoencoderKLCosmos.from_pretrained(folder, dtype=dtype).eval()
    state = {**_archived(folder / ENCODER), **_archived(folder / DECODER)}
    if not state:
        return load_jit_tokenizer(folder, dtype)
    mean, std = torch.load(_present(folder / STATISTICS), map_location="cpu", weights_only=True)
    autoencoder = AutoencoderKLCosmos(
        **_cosmos_widths(state, folder),
        latents_mean=mean.float().flatten().tolist(),
        latents_std=std.float().flatten().tolist(),
    )
    names = {name: original_name(name) for name in autoencoder.state_dict()}
    ours = {ours: state.get(theirs) for ours, theirs in names.items()}
    return _filled(autoencoder, ours, folder, dtype)


def load_wan_autoencoder(folder: Path, dtype: torch.dtype) -> Any:
    """The Wan 2.1 autoencoder of Predict2, on the CPU.

    Args:
        folder: A diffusers `vae/`, or a folder with `tokenizer.pth`.
        dtype: Precision of the weights.

    Raises:
        MalformedRecordError: If a file is missing, or its tensors are not of such a network.
    """
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    if (folder / "config.json").exists() and not (folder / WAN_FILE).exists():
        return AutoencoderKLWan.from_pretrained(folder, dtype=dtype).eval()
    path = _present(folder / WAN_FILE)
    state = convert_wan_vae_to_diffusers(
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    )
    if "encoder.conv_in.weight" not in state:
        raise _of_another_network(folder, ["encoder.conv1.weight"])
    autoencoder = AutoencoderKLWan(base_dim=len(state["encoder.conv_in.weight"]))
    return _filled(autoencoder, state, folder, dtype)


def original_name(name: str) -> str:
    """The makers' name of a tensor of `AutoencoderKLCosmos`.

    Blocks that go up are counted from the other end: diffusers by their order, the makers by size.

    Example:
        >>> original_name("decoder.up_blocks.0.resnets.2.conv1.conv_t.weight")
        'decoder.up.2.block.2.conv1.1.conv3d.weight'
    """
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{2 - int(found[1])}", name)
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _archived(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a TorchScript archive, a format that torch reads but no longer recommends."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated")
            network = torch.jit.load(str(_present(path)), map_location="cpu")
        return dict(network.state_dict())
    except RuntimeError as error:
        raise MalformedRecordError(
            f"video tokenizer {path.name}",
            str(error).splitlines()[0],
            "a TorchScript archive",
            "Download it again with `worldloop models download`.",
        ) from error


def _present(path: Path) -> Path:
    if not path.exists():
        raise MalformedRecordError(
            f"video tokenizer in {path.parent.name}",
            f"no {path.name}",
            f"{ENCODER}, {DECODER} and {STATISTICS}, or {WAN_FILE}",
            "Download it with `worldloop models download`.",
        )
    return path


def _cosmos_widths(state: Mapping[str, torch.Tensor], folder: Path) -> dict[str, Any]:
    """Widths and depth of the network that tensors belong to."""
    try:
        down = [len(state[f"encoder.down.{i}.block.0.conv1.0.conv3d.weight"]) for i in range(3)]
        up = [len(state[f"decoder.up.{i}.block.0.conv1.0.conv3d.weight"]) for i in range(3)]
        first = len(state["encoder.conv_in.0.conv3d.weight"])
        last = len(state["decoder.conv_in.0.conv3d.weight"])
        latent_channels = len(state["quant_conv.conv3d.weight"])
    except KeyError as error:
        raise _of_another_network(folder, [str(error.args[0])]) from error
    depth = sum(
        f"encoder.down.0.block.{i}.conv1.0.conv3d.weight" in state for i in range(len(state))
    )
    return {
        "encoder_block_out_channels": (first, *down),
        "decode_block_out_channels": (*up, last),
        "latent_channels": latent_channels,
        "num_layers": depth,
    }


def _filled(
    autoencoder: Any, state: Mapping[str, torch.Tensor | None], folder: Path, dtype: torch.dtype
) -> Any:
    """The network with its tensors, every one of which must be there in its shape."""
    expected = autoencoder.state_dict()
    taken: dict[str, torch.Tensor] = {}
    for name, tensor in expected.items():
        found = state.get(name)
        if found is not None and found.shape == tensor.shape:
            taken[name] = found.to(dtype)
    if len(taken) < len(expected):
        raise _of_another_network(folder, sorted(set(expected) - set(taken)))
    autoencoder.load_state_dict(taken, assign=True)
    return autoencoder.eval()


def _of_another_network(folder: Path, names: list[str]) -> MalformedRecordError:
    return MalformedRecordError(
        f"video tokenizer in {folder.name}",
        f"{len(names)} tensors absent or of another shape, first {names[0]!r}",
        "the tensors of the network that this model was trained with",
        "Download the tokenizer of this model with `worldloop models download`.",
    )
