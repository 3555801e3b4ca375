"""Decoding latents a few frames at a time, with what each layer remembers of the frames before.

`AutoencoderKLCosmos` (CV8x8x8) is causal in time: a convolution looks at two frames before its own,
a frame of attention at all frames before it, a norm at its own frame alone. What a chunk needs of the
chunks before is therefore small, and decoding in chunks computes the same numbers as decoding the
whole, up to the order in which kernels of another size add them. Memory is bounded by the chunk, but
for the keys and values of temporal attention, which are kept for the whole clip at the size of the
latent. `AutoencoderKLWan` has such a memory of its own, one latent frame at a time; here several
frames go through it at once.
"""

# B batch, C channels, T frames, H height, W width, N rows of tokens

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from worldloop.errors import MalformedRecordError

Memory = dict[int, torch.Tensor]
"""What layers remember, by `id` of the layer."""


def enable_chunks(vae: Any, frames_per_chunk: int) -> None:
    """Let `vae.decode` work in chunks from now on.

    Args:
        vae: An `AutoencoderKLCosmos` or `AutoencoderKLWan`.
        frames_per_chunk: Latent frames of a chunk; fewer take less memory and more time.

    Raises:
        MalformedRecordError: If the autoencoder is another one, or not causal.
    """
    if frames_per_chunk < 1:
        raise MalformedRecordError(
            "frames_per_chunk", frames_per_chunk, "at least 1", "Choose 2, or more for speed."
        )
    kind = type(vae).__name__
    if kind == "AutoencoderKLCosmos":
        _check_causal(vae)
    elif kind != "AutoencoderKLWan":
        raise MalformedRecordError(
            "video autoencoder to decode in chunks",
            kind,
            "AutoencoderKLCosmos or AutoencoderKLWan",
            "Decode it whole.",
        )
    decode = _decode_cosmos if kind == "AutoencoderKLCosmos" else _decode_wan
    vae.latent_frames_per_chunk = frames_per_chunk
    vae._decode = types.MethodType(decode, vae)


# Bytes that decoding a latent frame takes per latent pixel, in bf16: AutoencoderKLCosmos 10.6 GB less
# 6.8 GB for two frames of 88x160, AutoencoderKLWan 44.2 GB less 24.9 GB for four (one NVIDIA H200,
# torch 2.11.0+cu130, 2026-11-21, `bench vae`); that of Wan 2.2 is scaled by its pixels.
_BYTES = {"AutoencoderKLCosmos": 135_000, "AutoencoderKLWan": 343_000}
_FIXED_CHUNKS = 1.5  # what is held beside the frames of a chunk, in frames


def fit(vae: Any, latent_size: tuple[int, int, int], *, budget_gb: float) -> int:
    """Let an autoencoder decode in the largest chunks that memory allows, its weights laid out for it.

    Args:
        vae: The autoencoder; what is not `AutoencoderKLCosmos` or `AutoencoderKLWan` is left as it is.
        latent_size: Latent frames, rows and columns of a clip.
        budget_gb: Memory that decoding may take beside what is on the device.

    Returns:
        Latent frames of a chunk, at least 1; all of them means that the clip is decoded whole, as it
        is with any other autoencoder, e.g. a frozen archive.
    """
    frames, rows, columns = latent_size
    scale = getattr(getattr(vae, "config", None), "scale_factor_spatial", 8) / 8
    each_gb = _BYTES.get(type(vae).__name__, 0) * rows * columns * scale**2 / 1e9
    chunk = max(1, min(frames, int(budget_gb / max(each_gb, 1e-9) - _FIXED_CHUNKS)))
    if type(vae).__name__ == "AutoencoderKLWan":
        use_channels_last(vae)
    if type(vae).__name__ == "AutoencoderKLWan" or chunk < frames:
        enable_chunks(vae, chunk)
    return chunk


def decoded_chunks(vae: Any, latent_BCTHW: torch.Tensor, *, frames_per_chunk: int) -> Iterator[Any]:
    """Pixels of a latent of `AutoencoderKLCosmos`, chunk by chunk, (B, 3, t, H, W) in [-1, 1].

    The first chunk has one frame more than a multiple of the temporal stride less the stride, as a
    causal autoencoder makes it; all others have the stride times `frames_per_chunk`.
    """
    memory: Memory = {}
    for start in range(0, latent_BCTHW.shape[2], frames_per_chunk):
        chunk = latent_BCTHW[:, :, start : start + frames_per_chunk]
        yield _decode_chunk(vae, chunk, memory, first=start == 0)


def use_channels_last(vae: Any) -> None:
    """Lay convolution weights out as tensor cores read them; the numbers do not change."""
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
        elif isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def _decode_cosmos(vae: Any, z: torch.Tensor, return_dict: bool = True) -> Any:
    """In the place of `AutoencoderKLCosmos._decode`."""
    chunks = decoded_chunks(vae, z, frames_per_chunk=vae.latent_frames_per_chunk)
    return _output(torch.cat(list(chunks), 2), return_dict)


def _output(video: torch.Tensor, return_dict: bool) -> Any:
    from diffusers.models.autoencoders.vae import DecoderOutput

    return DecoderOutput(sample=video) if return_dict else (video,)


def _check_causal(vae: Any) -> None:
    """Refuse norms over several frames; all published checkpoints have them frame by frame."""
    for module in vae.decoder.modules():
        if type(module).__name__ == "CosmosCausalGroupNorm" and module.num_groups != 1:
            raise MalformedRecordError(
                "groups of a norm in the video autoencoder",
                module.num_groups,
                "1, which norms every frame alone",
                "Decode it whole.",
            )


def _decode_chunk(vae: Any, z: torch.Tensor, memory: Memory, *, first: bool) -> torch.Tensor:
    decoder = vae.decoder
    x = _project(decoder.conv_in, _conv(vae.post_quant_conv, z, memory), memory)
    mid = decoder.mid_block
    x = _resnet(mid.resnets[0], x, memory)
    for spatial, temporal, resnet in zip(
        mid.attentions, mid.temp_attentions, mid.resnets[1:], strict=True
    ):
        x = _resnet(resnet, _attend_in_time(temporal, spatial(x), memory), memory)
    for block in decoder.up_blocks:
        x = _up_block(block, x, memory, first=first)
    x = _project(decoder.conv_out, functional.silu(decoder.norm_out(x)), memory)
    return _unpatch(decoder.unpatch_embed, x, first=first)


def _up_block(block: Any, x: torch.Tensor, memory: Memory, *, first: bool) -> torch.Tensor:
    for resnet, spatial, temporal in zip(
        block.resnets, block.attentions, block.temp_attentions, strict=True
    ):
        x = _resnet(resnet, x, memory)
        if spatial is not None:
            x = spatial(x)
        if temporal is not None:
            x = _attend_in_time(temporal, x, memory)
    for upsample in block.upsamplers or ():
        x = _upsample(upsample, x, memory, first=first)
    return x


def _conv(conv: Any, x: torch.Tensor, memory: Memory) -> torch.Tensor:
    """A causal convolution; before the first frame stands that frame again and again."""
    if conv.temporal_pad:
        before = memory.get(id(conv))
        if before is None:
            before = x[:, :, :1].expand(-1, -1, conv.temporal_pad, -1, -1)
        x = torch.cat([before, x], dim=2)
        memory[id(conv)] = x[:, :, -conv.temporal_pad :].clone()
    if any(conv.spatial_pad):
        x = functional.pad(x, (*conv.spatial_pad, 0, 0), mode=conv.pad_mode, value=0.0)
    return functional.conv3d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation)


def _project(projection: Any, x: torch.Tensor, memory: Memory) -> torch.Tensor:
    return _conv(projection.conv_t, _conv(projection.conv_s, x, memory), memory)


def _resnet(resnet: Any, x: torch.Tensor, memory: Memory) -> torch.Tensor:
    shortcut = resnet.conv_shortcut
    kept = x if isinstance(shortcut, torch.nn.Identity) else _conv(shortcut, x, memory)
    x = _project(resnet.conv1, functional.silu(resnet.norm1(x)), memory)
    x = _project(resnet.conv2, functional.silu(resnet.norm2(x)), memory)
    return x + kept


def _attend_in_time(attn: Any, x_BCTHW: torch.Tensor, memory: Memory) -> torch.Tensor:
    """Attention of each frame to itself and the frames before, position by position."""
    _, _, frames, height, width = x_BCTHW.shape
    normed = attn.norm(x_BCTHW)
    q, k, v = (
        _conv(layer, normed, memory).permute(0, 3, 4, 2, 1).flatten(0, 2)
        for layer in (attn.to_q, attn.to_k, attn.to_v)
    )  # N, T, C
    kv = torch.stack([k, v])
    if id(attn) in memory:
        kv = torch.cat([memory[id(attn)], kv], dim=2)
    memory[id(attn)] = kv
    seen = kv.shape[2]
    mask = torch.ones(frames, seen, dtype=torch.bool, device=q.device).tril(seen - frames)
    heads = attn.num_attention_heads
    q, k, v = (one.unflatten(2, (heads, -1)).transpose(1, 2) for one in (q, kv[0], kv[1]))
    out = (
        functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    )
    out = out.unflatten(0, (-1, height, width)).permute(0, 4, 3, 1, 2)
    return attn.to_out[1](_conv(attn.to_out[0], out, memory)) + x_BCTHW


def _upsample(up: Any, x: torch.Tensor, memory: Memory, *, first: bool) -> torch.Tensor:
    if not up.spatial_upsample and not up.temporal_upsample:
        return x
    if up.temporal_upsample:
        x = x.repeat_interleave(2, dim=2)
        if first:  # the first frame of a clip stands for itself alone
            x = x[:, :, 1:]
        x = _conv(up.conv1, x, memory) + x
    if up.spatial_upsample:
        x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
        x = _conv(up.conv2, x, memory) + x
    return _conv(up.conv3, x, memory)


def _unpatch(unpatch: Any, x: torch.Tensor, *, first: bool) -> torch.Tensor:
    """From patches to pixels; the module would cut frames off before every chunk, not the first alone."""
    size = unpatch.patch_size
    if unpatch.patch_method == "haar":
        for _ in range(size.bit_length() - 1):
            x = unpatch._idwt(x, rescale=True)
    else:
        x = x.unflatten(1, (-1, size, size, size)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        x = x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return x[:, :, size - 1 :] if first else x


def _decode_wan(vae: Any, z: torch.Tensor, return_dict: bool = True) -> Any:
    """In the place of `AutoencoderKLWan._decode`: its own memory, several frames at once."""
    vae.clear_cache()
    x = vae.post_quant_conv(z)
    step = vae.latent_frames_per_chunk
    starts = [0, *range(1, z.shape[2], step)]
    stops = [1, *(min(start + step, z.shape[2]) for start in starts[1:])]
    chunks = []
    for start, stop in zip(starts, stops, strict=True):
        vae._conv_idx = [0]
        chunk = vae.decoder(
            x[:, :, start:stop],
            feat_cache=vae._feat_map,
            feat_idx=vae._conv_idx,
            first_chunk=start == 0,
        )
        chunks.append(chunk)
    vae.clear_cache()
    video = torch.cat(chunks, dim=2)
    if vae.config.patch_size is not None:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        video = unpatchify(video, patch_size=vae.config.patch_size)
    return _output(torch.clamp(video, min=-1.0, max=1.0), return_dict)
