import dataclasses

import numpy as np
import pytest

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.autoencoders import (
    load_cosmos_autoencoder,
    load_wan_autoencoder,
    original_name,
)
from gpu_jobs.cosmos_generate.backends.registry import load_model
from gpu_jobs.cosmos_generate.checkpoints.original import key_map
from gpu_jobs.cosmos_generate.tiny import cosmos1, write_tiny_checkpoint
from tests.gpu_jobs.cosmos_generate.tiny_worlds import denoise, load_tiny, request
from worldloop.cosmos.models import model
from worldloop.errors import MalformedRecordError

TEXT = "Tiny-Cosmos-1.0-Text2World"
T5, TOKENIZER = "google-t5/t5-11b", "Cosmos-1.0-Tokenizer-CV8x8x8"

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated")


def write_archive(path, state):
    """A TorchScript archive of a network whose tensors have these names."""
    import torch

    class Branch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Branch()
    for name, tensor in state.items():
        *branches, leaf = name.split(".")
        place = root
        for branch in branches:
            if branch not in place._modules:
                place.add_module(branch, Branch())
            place = place._modules[branch]
        place.register_buffer(leaf, tensor)
    torch.jit.script(root).save(str(path))


def write_tokenizer(folder, autoencoder):
    """The makers' folder of an autoencoder of diffusers."""
    import torch

    folder.mkdir(parents=True)
    state = {original_name(name): tensor for name, tensor in autoencoder.state_dict().items()}
    is_encoder = {name: name.startswith(("encoder.", "quant_conv.")) for name in state}
    write_archive(folder / "encoder.jit", {n: t for n, t in state.items() if is_encoder[n]})
    write_archive(folder / "decoder.jit", {n: t for n, t in state.items() if not is_encoder[n]})
    config = autoencoder.config
    statistics = (torch.tensor(config.latents_mean), torch.tensor(config.latents_std))
    torch.save(tuple(values.view(16, -1) for values in statistics), folder / "mean_std.pt")


def wan_names(num_blocks=2):
    """Tensors of Wan 2.1's autoencoder as its makers name them (`WanVAE_`), by network."""

    def pair(name):
        return [f"{name}.weight", f"{name}.bias"]

    def residual(name, *, wider=False):
        inner = [f"{name}.residual.{i}.gamma" for i in (0, 3)]
        inner += [*pair(f"{name}.residual.2"), *pair(f"{name}.residual.6")]
        return inner + (pair(f"{name}.shortcut") if wider else [])

    names = [*pair("conv1"), *pair("conv2")]
    for net, places, wider, resamples in (
        ("encoder", "downsamples", (3, 6), {2: False, 5: True, 8: True}),
        ("decoder", "upsamples", (4,), {3: True, 7: True, 11: False}),
    ):
        count = 4 * (num_blocks + (net == "decoder")) + 3
        names += [*pair(f"{net}.conv1"), f"{net}.head.0.gamma", *pair(f"{net}.head.2")]
        names += [*residual(f"{net}.middle.0"), *residual(f"{net}.middle.2")]
        attention = f"{net}.middle.1"
        names += [
            f"{attention}.norm.gamma",
            *pair(f"{attention}.to_qkv"),
            *pair(f"{attention}.proj"),
        ]
        for index in range(count):
            place = f"{net}.{places}.{index}"
            if index not in resamples:
                names += residual(place, wider=index in wider)
                continue
            names += pair(f"{place}.resample.1")
            names += pair(f"{place}.time_conv") if resamples[index] else []
    return names


def equal(first, second):
    """Whether two networks have the same tensors."""
    ours, theirs = first.state_dict(), second.state_dict()
    return set(ours) == set(theirs) and all(
        np.array_equal(ours[name], theirs[name]) for name in ours
    )


def test_torchscript_archives_become_the_network_of_diffusers(tmp_path):
    import torch

    autoencoder = import_diffusers().AutoencoderKLCosmos(**cosmos1.VAE)
    write_tokenizer(tmp_path / "tokenizer", autoencoder)
    loaded = load_cosmos_autoencoder(tmp_path / "tokenizer", torch.float32)
    assert equal(loaded, autoencoder)
    np.testing.assert_allclose(loaded.config.latents_mean, autoencoder.config.latents_mean)


def test_wan_weights_become_the_network_of_diffusers(tmp_path):
    import torch
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    autoencoder = import_diffusers().AutoencoderKLWan(base_dim=4)
    ours = autoencoder.state_dict()
    mapped = convert_wan_vae_to_diffusers(
        {name: torch.tensor([i]) for i, name in enumerate(wan_names())}
    )
    assert set(mapped) == set(ours)
    state = {wan_names()[int(index)]: ours[name] for name, index in mapped.items()}
    torch.save(state, tmp_path / "tokenizer.pth")
    assert equal(load_wan_autoencoder(tmp_path, torch.float32), autoencoder)


def test_the_makers_layout_gives_the_same_frames_as_the_diffusers_folder(tmp_path):
    import torch

    world = load_tiny(TEXT, tmp_path)
    folder, moved = tmp_path / TEXT, tmp_path / "original"
    (folder / "text_encoder").rename(tmp_path / "t5")
    for file in (folder / "tokenizer").iterdir():
        file.rename(tmp_path / "t5" / file.name)
    (moved / "google-t5").mkdir(parents=True)
    (tmp_path / "t5").rename(moved / T5)
    write_tokenizer(moved / TOKENIZER, world.parts["tokenizer"])
    (moved / TEXT).mkdir()
    state = world.parts["transformer"].state_dict()
    names = key_map("Cosmos-1.0 or Predict1", num_layers=2)
    torch.save({f"net.{names[n]}": t for n, t in state.items()}, moved / TEXT / "model.pt")
    asked = dataclasses.replace(model(TEXT), needs=(T5, TOKENIZER))
    other = load_model(asked, moved, dtype=torch.float32, device="cpu")
    assert all(equal(part, other.parts[name]) for name, part in world.parts.items())
    (_, (expected,)), (_, (clip,)) = denoise(world, [request()]), denoise(other, [request()])
    # the weights lie elsewhere in memory, so the CPU adds in another order
    np.testing.assert_allclose(clip.astype(int), expected, atol=1)


def test_a_missing_file_is_named(tmp_path):
    import torch

    with pytest.raises(MalformedRecordError, match=r"no encoder\.jit"):
        load_cosmos_autoencoder(tmp_path, torch.float32)
    with pytest.raises(MalformedRecordError, match=r"no tokenizer\.pth"):
        load_wan_autoencoder(tmp_path, torch.float32)


def test_a_broken_archive_is_an_error(tmp_path):
    import torch

    (tmp_path / "encoder.jit").write_bytes(b"half a download")
    with pytest.raises(MalformedRecordError, match=r"encoder\.jit.*TorchScript archive"):
        load_cosmos_autoencoder(tmp_path, torch.float32)


def test_tensors_of_another_network_are_refused(tmp_path):
    import torch

    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "tokenizer.pth")
    with pytest.raises(MalformedRecordError, match="tensors absent or of another shape"):
        load_wan_autoencoder(tmp_path, torch.float32)
    for name in ("encoder.jit", "decoder.jit"):
        write_archive(tmp_path / name, {"other.weight": torch.zeros(1)})
    torch.save((torch.zeros(1), torch.ones(1)), tmp_path / "mean_std.pt")
    with pytest.raises(MalformedRecordError, match=r"encoder\.down\.0"):
        load_cosmos_autoencoder(tmp_path, torch.float32)


def test_a_half_diffusers_folder_says_what_is_missing(tmp_path):
    folder = write_tiny_checkpoint(TEXT, tmp_path)
    (folder / "vae").rename(tmp_path / "vae")
    with pytest.raises(MalformedRecordError, match=r"no Tiny-Cosmos-1\.0-Text2World/vae"):
        load_tiny(TEXT, tmp_path)
