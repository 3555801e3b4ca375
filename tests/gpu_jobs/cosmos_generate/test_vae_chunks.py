import pytest
import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.vae_chunks import (
    decoded_chunks,
    enable_chunks,
    fit,
    use_channels_last,
)
from worldloop.errors import MalformedRecordError

diffusers = import_diffusers()


def cosmos_vae(patch_type="haar"):
    torch.manual_seed(0)
    return diffusers.AutoencoderKLCosmos(
        encoder_block_out_channels=(8, 16, 16, 16),
        decode_block_out_channels=(8, 16, 16, 16),
        attention_resolutions=(32,),
        resolution=128,  # so that an up block has attention too
        num_layers=1,
        latent_channels=4,
        patch_type=patch_type,
    ).eval()


def wan_vae(**more):
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    return diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=4, num_res_blocks=1, **statistics, **more
    ).eval()


WAN22 = {"patch_size": 2, "is_residual": True, "in_channels": 12, "out_channels": 12}


@torch.no_grad()
@pytest.mark.parametrize("frames_per_chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("patch_type", ["haar", "rearrange"])
def test_chunks_of_cv8x8x8_are_the_whole(patch_type, frames_per_chunk):
    vae, latent = cosmos_vae(patch_type), torch.randn(1, 4, 5, 4, 6)
    whole = vae.decode(latent).sample
    enable_chunks(vae, frames_per_chunk)
    chunked = vae.decode(latent, return_dict=False)[0]
    assert chunked.shape == (1, 3, 33, 32, 48)
    assert float((chunked - whole).abs().max()) < 2e-6 * float(whole.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, WAN22], ids=["wan2.1", "wan2.2"])
@pytest.mark.parametrize("frames_per_chunk", [1, 2, 4])
def test_chunks_of_wan_are_the_whole(more, frames_per_chunk):
    vae, latent = wan_vae(**more), torch.randn(1, 4, 5, 4, 6)
    whole = vae.decode(latent).sample
    use_channels_last(vae)
    enable_chunks(vae, frames_per_chunk)
    torch.testing.assert_close(vae.decode(latent).sample, whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_chunk_is_as_long_as_its_latent_frames_say():
    chunks = decoded_chunks(cosmos_vae(), torch.randn(1, 4, 5, 4, 4), frames_per_chunk=2)
    assert [chunk.shape[2] for chunk in chunks] == [9, 16, 8]


def test_chunks_grow_with_the_memory_that_is_there():
    size = (16, 88, 160)
    chunks = [fit(cosmos_vae(), size, budget_gb=gb) for gb in (1.0, 10.0, 100.0)]
    assert chunks == [1, 3, 16]


def test_an_autoencoder_that_is_not_causal_is_refused():
    vae = cosmos_vae()
    vae.decoder.norm_out.num_groups = 2
    with pytest.raises(MalformedRecordError, match="found 2, expected 1"):
        enable_chunks(vae, 2)


@pytest.mark.parametrize(("vae", "chunk"), [(torch.nn.Linear(1, 1), 2), (cosmos_vae(), 0)])
def test_what_cannot_be_decoded_in_chunks_is_refused(vae, chunk):
    with pytest.raises(MalformedRecordError):
        enable_chunks(vae, chunk)
