"""A head start for the autoencoder: it begins as the best linear code of its footage.

From random weights the reconstruction stays blurred for thousands of steps. So the first
convolutions take the principal components of wavelet blocks, residual branches begin at zero, and
the activations between are made linear: `silu(u) - silu(-u)` is u, and channels of one large
constant hold the norms still. From there everything is trained.
"""

# B batch, C channels, T frames, H height, W width, D wavelet coefficients, K latent channels

import math
from collections.abc import Iterable
from typing import Any

_CONSTANT = 8.0  # far above the unit variance of components, so that norms hardly see them
_NUM_CONSTANT = 16  # channels, half of them negative
_LEAST_STD = 1e-4
_FINER = 0.1  # share of their usual size of weights for what is not known yet


def start_from_components(autoencoder: Any, videos_BCTHW: Iterable[Any]) -> None:
    """Set the weights of a new `AutoencoderKLCosmos` so that it codes principal components.

    Latents then have unit variance. Needs blocks of one width, at least twice the latent channels
    and `_NUM_CONSTANT`, and no other downsampling than by wavelets.

    Args:
        autoencoder: On the device of the videos.
        videos_BCTHW: Footage between -1 and 1.
    """
    import torch

    mean_D, components_KD, std_K = principal_components(
        autoencoder.encoder.patch_embed, videos_BCTHW, count=autoencoder.config.latent_channels
    )
    num_latents = len(std_K)
    with torch.no_grad():
        _still_branches(autoencoder)
        down_KD = components_KD / std_K[:, None]
        _enter(autoencoder.encoder.conv_in, down_KD, -(down_KD @ mean_D))
        identity = torch.eye(num_latents, device=mean_D.device)
        _leave(autoencoder.encoder, identity, torch.zeros_like(std_K))
        for one in (autoencoder.quant_conv, autoencoder.post_quant_conv):
            one.weight.copy_(identity[:, :, None, None, None])
            one.bias.zero_()
        _enter(autoencoder.decoder.conv_in, identity, torch.zeros_like(std_K))
        _leave(autoencoder.decoder, (components_KD * std_K[:, None]).t(), mean_D)


def principal_components(
    patch_embed: Any, videos_BCTHW: Iterable[Any], *, count: int
) -> tuple[Any, Any, Any]:
    """Mean (D,), components (K, D) and their standard deviations (K,) of wavelet blocks.

    Args:
        patch_embed: Turns videos into blocks, (B, D, T, H, W).
        videos_BCTHW: Footage.
        count: Components, the largest first.
    """
    import torch

    total: Any = 0.0
    square: Any = 0.0
    number = 0
    for video_BCTHW in videos_BCTHW:
        blocks_ND = patch_embed(video_BCTHW).movedim(1, -1).flatten(0, -2).double().cpu()
        total = total + blocks_ND.sum(0)
        square = square + blocks_ND.t() @ blocks_ND
        number += len(blocks_ND)
        device = video_BCTHW.device
    mean_D = total / number
    values_D, vectors_DD = torch.linalg.eigh(square / number - torch.outer(mean_D, mean_D))
    std_K = values_D.flip(0)[:count].clamp_min(_LEAST_STD**2).sqrt()
    found = (mean_D, vectors_DD.flip(1)[:, :count].t(), std_K)
    return tuple(value.float().to(device) for value in found)


def _still_branches(autoencoder: Any) -> None:
    """Residual branches that add nothing yet."""
    for module in autoencoder.modules():
        if hasattr(module, "conv_shortcut"):
            module.conv2.conv_t.weight.zero_()
            module.conv2.conv_t.bias.zero_()
        if hasattr(module, "to_q") and hasattr(module, "to_out"):
            module.to_out[0].weight.zero_()
            module.to_out[0].bias.zero_()


def _enter(projection: Any, weight_KC: Any, bias_K: Any) -> None:
    """Channels: each component, each negated, constants, and what there is by chance."""
    count, conv = len(weight_KC), projection.conv_s
    conv.weight.mul_(_FINER)
    conv.weight[: 2 * count + _NUM_CONSTANT].zero_()
    conv.weight[:count, :, 0, 1, 1] = weight_KC
    conv.weight[count : 2 * count, :, 0, 1, 1] = -weight_KC
    conv.bias[:count] = bias_K
    conv.bias[count : 2 * count] = -bias_K
    half = _NUM_CONSTANT // 2
    conv.bias[2 * count : 2 * count + half] = _CONSTANT
    conv.bias[2 * count + half : 2 * count + 2 * half] = -_CONSTANT
    _pass_frames_on(projection.conv_t)


def _leave(half: Any, weight_OK: Any, bias_O: Any) -> None:
    """Components out of norm and activation, in the scale in which they came in."""
    count, conv = weight_OK.shape[1], half.conv_out.conv_s
    width = conv.weight.shape[1]
    size = math.sqrt((_NUM_CONSTANT * _CONSTANT**2 + 2 * count) / width)
    conv.weight.zero_()
    conv.weight[:, :count, 0, 1, 1] = size * weight_OK
    conv.weight[:, count : 2 * count, 0, 1, 1] = -size * weight_OK
    conv.bias.copy_(bias_O)
    _pass_frames_on(half.conv_out.conv_t)


def _pass_frames_on(conv: Any) -> None:
    """A convolution over time that starts by taking the present frame as it is."""
    import torch

    conv.weight.zero_()
    conv.weight[:, :, -1, 0, 0] = torch.eye(len(conv.weight), device=conv.weight.device)
    conv.bias.zero_()
