"""Transfer2.5 beside the diffusers pipeline, and what diffusers does not do: several controls at once."""

from pathlib import Path

import numpy as np
import pytest

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.requests import ClipRequest, Control
from worldloop.errors import ClipRejectedError, MalformedRecordError

# diffusers' own pipeline hands a tensor to numpy.array when it makes its schedule
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAME = "Tiny-Cosmos-Transfer2.5"
PROMPT, NEGATIVE = "A teal robot waves.", "blurry"
SHAPE = ClipShape(9, 64, 32, 16)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_jobs.cosmos_generate.tiny.transfer25 import write_tiny

    folder = tmp_path_factory.mktemp("checkpoints")
    write_tiny(folder / NAME)
    return folder


@pytest.fixture(scope="module")
def world(checkpoints: Path):
    import torch

    from gpu_jobs.cosmos_generate.backends.transfer25 import load

    return load(model(NAME), checkpoints, dtype=torch.float32, device=torch.device("cpu"))


def reference(checkpoints: Path, *, kind: str, output: str, **inputs):
    import torch
    from PIL import Image

    from gpu_jobs.cosmos_generate.tiny.predict25 import PassAll

    diffusers = import_diffusers()
    network = diffusers.CosmosControlNetModel.from_pretrained(
        checkpoints / NAME / "controlnet" / kind
    )
    pipe = diffusers.Cosmos2_5_TransferPipeline.from_pretrained(
        checkpoints / NAME, controlnet=network, safety_checker=PassAll()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        controls=[Image.fromarray(frame) for frame in inputs.pop("video")],
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        height=SHAPE.height_px,
        width=SHAPE.width_px,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type=output,
        **inputs,
    ).frames


def control_video(count: int, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SHAPE.height_px, SHAPE.width_px, 3), np.uint8)


def made(world, controls, *, videos=None, shape=SHAPE, **extra):
    """Latents and frames of a batch, one clip per entry of `controls`."""
    import torch

    requests = [
        ClipRequest(f"c{i}", PROMPT, seed=3 + i, controls=c) for i, c in enumerate(controls)
    ]
    media = [
        Media(controls={c.kind: control_video(shape.num_frames) for c in each}) for each in controls
    ]
    options = DenoiseOptions(shape, 2, 3.0, "unipc", extra=extra)
    embeddings = [world.encode(PROMPT, NEGATIVE)] * len(requests)
    device = torch.device("cpu")
    denoising = world.begin(requests, embeddings, options, device=device, media=media)
    for index in range(denoising.num_steps):
        denoising.step(index)
    latents = denoising.latents()
    frames = [world.decode(latents[i], r, options).frames for i, r in enumerate(requests)]
    return latents, frames


@pytest.mark.parametrize(("kind", "weight"), [("edge", 1.0), ("depth", 0.5)])
def test_one_control_makes_the_frames_of_diffusers(world, checkpoints, kind, weight) -> None:
    inputs = {
        "kind": kind,
        "video": control_video(9),
        "num_frames_per_chunk": 9,
        "controls_conditioning_scale": weight,
    }
    latents, frames = made(world, [(Control(kind, weight=weight),)])
    assert np.array_equal(latents, reference(checkpoints, output="latent", **inputs))
    expected = reference(checkpoints, output="np", **inputs)[0]
    assert np.array_equal(frames[0], (np.asarray(expected) * 255).round().astype(np.uint8))


def test_a_long_clip_is_made_in_parts_as_in_diffusers(world, checkpoints) -> None:
    inputs = {"kind": "seg", "video": control_video(21), "num_frames_per_chunk": 9}
    shape = ClipShape(21, 64, 32, 16)
    latents, frames = made(world, [(Control("seg"),)], shape=shape, frames_per_chunk=9)
    assert latents.shape[2] == 3 * 3
    expected = np.asarray(reference(checkpoints, output="np", **inputs)[0])
    assert frames[0].shape == (21, 32, 64, 3)
    assert np.array_equal(frames[0], (expected * 255).round().astype(np.uint8))


def test_weight_zero_is_the_base_model_and_controls_add_up(world) -> None:
    nothing, _ = made(world, [(Control("edge", weight=0.0),)])
    also_nothing, _ = made(world, [(Control("seg", weight=0.0),)])
    one, _ = made(world, [(Control("edge"),)])
    two, _ = made(world, [(Control("edge"), Control("depth"))])
    assert np.array_equal(nothing, also_nothing)
    assert not np.array_equal(nothing, one)
    assert not np.array_equal(one, two)


def test_clips_of_a_batch_may_have_different_controls(world) -> None:
    both, _ = made(world, [(Control("edge"),), (Control("seg", weight=0.5),)])
    alone, _ = made(world, [(Control("edge"),)])
    assert np.allclose(both[0], alone[0], atol=1e-4)


def test_a_control_model_folder_is_taken_from_the_request(world) -> None:
    folder = f"{NAME}/controlnet/depth"
    named, _ = made(world, [(Control("edge", model_dir=folder),)])
    usual, _ = made(world, [(Control("edge"),)])
    depth, _ = made(world, [(Control("depth"),)])
    assert np.array_equal(named, depth)
    assert not np.array_equal(named, usual)


def test_missing_controls_and_wrong_control_models_are_refused(world, checkpoints) -> None:
    import torch

    from gpu_jobs.cosmos_generate.backends.control_networks import load_control

    with pytest.raises(MalformedRecordError, match="at least one control for every clip"):
        made(world, [()])
    with pytest.raises(MalformedRecordError, match="CosmosControlNetModel"):
        made(world, [(Control("edge", model_dir=f"{NAME}/transformer"),)])
    other = import_diffusers().CosmosControlNetModel(n_controlnet_blocks=1, in_channels=34, model_channels=12,
        num_attention_heads=1, attention_head_dim=12, text_embed_dim=8, adaln_lora_dim=2)  # fmt: skip
    other.save_pretrained(checkpoints / "other")
    with pytest.raises(MalformedRecordError, match=r"found \{'width': 12, 'blocks': 1\}"):
        load_control(checkpoints / "other", "edge", world.parts["transformer"], torch.float32)


def test_controls_of_the_makers_layout_are_mapped_name_by_name(world, tmp_path) -> None:
    import torch

    from gpu_jobs.cosmos_generate.backends.control_networks import load_control
    from gpu_jobs.cosmos_generate.checkpoints import load_transformer
    from gpu_jobs.cosmos_generate.checkpoints.configs import PREDICT2
    from gpu_jobs.cosmos_generate.checkpoints.original import control_key_map, key_map

    base = world.parts["transformer"]
    usual = load_control(world.folder / "controlnet", "edge", base, torch.float32)
    # the control network shares tensors with its base model in this layout
    expected = usual.state_dict() | {
        f"{ours}{key.removeprefix(theirs)}": value
        for ours, theirs in {"patch_embed_base.": "patch_embed.", "time_embed.": "time_embed.",
                             "crossattn_proj.": "crossattn_proj.", "img_context_proj.": "img_context_proj."}.items()
        for key, value in base.state_dict().items() if key.startswith(theirs)
    }  # fmt: skip
    optional = [
        k for k in base.state_dict() if k.startswith(("crossattn_proj", "img_context_proj"))
    ]
    picture = ["blocks.0.cross_attn.q_img.weight", "control_blocks.0.cross_attn.q_img.weight"]
    names = key_map(PREDICT2, num_layers=2, present=[*optional, *picture])
    saved = {f"net.{theirs}": base.state_dict()[ours] for ours, theirs in names.items()}
    own = control_key_map(2, present=picture)
    saved |= {f"net.{theirs}": usual.state_dict()[ours] for ours, theirs in own.items()}
    (tmp_path / "general" / "edge").mkdir(parents=True)
    torch.save(saved, tmp_path / "general" / "edge" / "any_ema_bf16.pt")
    loaded = load_control(tmp_path / "general", "edge", base, torch.float32).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    again = load_transformer(tmp_path, model(NAME), torch.float32).state_dict()
    assert all(torch.equal(again[key], value) for key, value in base.state_dict().items())


def test_parts_and_latents_that_cannot_be_are_refused(world) -> None:
    with pytest.raises(MalformedRecordError, match="parts of a long clip"):
        made(world, [(Control("edge"),)], frames_per_chunk=5, frames_carried=5)
    latents, _ = made(world, [(Control("edge"),)])
    latents[0, 0] = float("inf")
    with pytest.raises(ClipRejectedError, match="denoise"):
        world.decode(latents[0], ClipRequest("a"), DenoiseOptions(SHAPE, 2, 3.0, "unipc"))
