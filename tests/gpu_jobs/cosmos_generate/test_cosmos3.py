"""Cosmos 3: our loop against the pipelines of diffusers, on a tiny model with all modalities."""

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree, rmtree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media, Plain
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.requests import ActionTrack, ClipRequest, Control
from worldloop.errors import ClipRejectedError, MalformedRecordError, UnknownKeyError

PROMPT, NEGATIVE = "A rainy street at night.", "static, no motion"
FOUR_STEPS, EDGE = "Tiny-Cosmos3-4Step", "Tiny-Cosmos3-Edge"
SHAPE = ClipShape(9, 64, 32, 24)
# diffusers hands a tensor to numpy.array, which torch answers with a warning of numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CALL = {"num_inference_steps": 3, "guidance_scale": 4.0, "fps": 24.0}


class Counting(Plain):
    """Counts passes, and may end guidance."""

    def __init__(self, guided: bool = True):
        self.passes: list[str] = []
        self._guided = guided

    def guided(self):
        return self._guided

    def run(self, branch, forward):
        self.passes.append(branch)
        return forward()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    from gpu_jobs.cosmos_generate.tiny import cosmos3 as tiny

    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.write_tiny(folder / "Tiny-Cosmos3")
    tiny.write_tiny_four_steps(folder / FOUR_STEPS)
    tiny.write_tiny_edge(folder / EDGE)
    return folder


@pytest.fixture(scope="module")
def world(checkpoints):
    return load(checkpoints)


@pytest.fixture(scope="module")
def distilled(checkpoints):
    return load(checkpoints, four_steps=True)


@pytest.fixture(scope="module")
def pipeline(checkpoints):
    return diffusers_pipeline(checkpoints / "Tiny-Cosmos3")


@pytest.fixture(scope="module")
def modular(pipeline):
    return modular_pipeline("Cosmos3OmniModularPipeline", "Cosmos3OmniBlocks", pipeline.components)


def load(checkpoints: Path, *, four_steps: bool = False):
    """The tiny model of a folder."""
    tiny = model("Tiny-Cosmos3")
    if four_steps:
        features = frozenset({"distilled"})
        tiny = replace(tiny, name=FOUR_STEPS, features=features, num_steps=4)
    return load_model(tiny, checkpoints)


def load_model(known, checkpoints: Path, *, dtype: str = "float32", **changes):
    """A model on the CPU."""
    import torch

    from gpu_jobs.cosmos_generate.backends import cosmos3

    return cosmos3.load(known, checkpoints, dtype=getattr(torch, dtype), device="cpu", **changes)


def diffusers_pipeline(folder: Path, *, dtype: str = "float32") -> Any:
    """The pipeline of diffusers over a folder."""
    import torch

    diffusers = import_diffusers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe = diffusers.Cosmos3OmniPipeline.from_pretrained(
            folder, enable_safety_checker=False, dtype=getattr(torch, dtype)
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def modular_pipeline(name: str, blocks: str, components: dict[str, Any], **config) -> Any:
    """A modular pipeline of diffusers over parts that are loaded already."""
    diffusers = import_diffusers()
    from diffusers.modular_pipelines.cosmos import modular_blocks_cosmos3 as base
    from diffusers.modular_pipelines.cosmos import modular_blocks_cosmos3_distilled as four

    kind = getattr(base, blocks, None) or getattr(four, blocks)
    pipe = getattr(diffusers, name)(blocks=kind())
    parts = {key: part for key, part in components.items() if part is not None}
    pipe.update_components(**parts, **config)
    pipe.disable_safety_checker()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames(count: int, seed: int = 0) -> np.ndarray:
    size = (count, SHAPE.height_px, SHAPE.width_px, 3)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def pictures(array: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in array]


def asked(**changes) -> ClipRequest:
    return ClipRequest("clip", PROMPT, **{"seed": 3, **changes})


def options(**changes) -> DenoiseOptions:
    given = {"shape": SHAPE, "num_steps": 3, "guidance": 4.0, "sampler": "unipc", **changes}
    return DenoiseOptions(**given)


def run(world, request, opts, media=None):
    """Latents and the decoded clip of one request."""
    embedding = world.encode(request.prompt, NEGATIVE)
    denoising = world.begin([request], [embedding], opts, device="cpu", media=[media or Media()])
    for index in range(denoising.num_steps):
        denoising.step(index)
    [latents] = denoising.latents()
    return latents, world.decode(latents, request, opts)


def reference(pipe, **call):
    """Latents and outputs of the diffusers pipeline."""
    import torch

    results = []
    for kind in ("latent", "pil"):
        generator = torch.Generator().manual_seed(3)
        given = {"prompt": PROMPT, "negative_prompt": NEGATIVE, **CALL, **call}
        results.append(pipe(**given, generator=generator, output_type=kind))
    as_frames = np.stack([np.asarray(picture) for picture in results[1].video])
    return SimpleNamespace(
        latents=results[0].video, frames=as_frames, sound=results[1].sound, action=results[1].action
    )


def sized(shape: ClipShape = SHAPE) -> dict[str, int]:
    return {"num_frames": shape.num_frames, "height": shape.height_px, "width": shape.width_px}


@pytest.mark.parametrize("num_given", [0, 1, 5])
def test_worlds_equal_the_pipeline_bit_for_bit(world, pipeline, num_given):
    import torch

    given = frames(num_given) if num_given else None
    call: dict[str, Any] = {}
    if num_given == 1:
        call["image"] = pictures(given)[0]
    elif num_given:
        call["video"] = pictures(given)
    theirs = reference(pipeline, **sized(), **call)
    latents, decoded = run(world, asked(), options(), Media(frames=given))
    assert torch.equal(latents.video, theirs.latents)
    assert np.array_equal(decoded.frames, theirs.frames)
    assert decoded.frames.std() > 10


def test_pictures_equal_the_pipeline_bit_for_bit(world, pipeline):
    import torch

    still = replace(SHAPE, num_frames=1)
    theirs = reference(pipeline, **sized(still))
    latents, decoded = run(world, asked(), options(shape=still))
    assert torch.equal(latents.video, theirs.latents)
    assert np.array_equal(decoded.frames, theirs.frames)


def test_sound_equals_the_pipeline_bit_for_bit(world, pipeline):
    import torch

    theirs = reference(pipeline, **sized(), enable_sound=True)
    latents, decoded = run(world, asked(sound=True), options())
    assert torch.equal(latents.video, theirs.latents)
    assert np.array_equal(decoded.sound, theirs.sound.numpy())
    assert decoded.sound.shape[0] == 2
    assert decoded.sound_rate_hz == 1000
    assert decoded.sound.std() > 0


@pytest.mark.parametrize("mode", ["forward_dynamics", "inverse_dynamics", "policy"])
def test_actions_equal_the_pipeline_bit_for_bit(world, pipeline, mode):
    import torch
    from diffusers import CosmosActionCondition

    media = Media(frames=frames(9), actions=actions(8))
    condition = CosmosActionCondition(
        mode=mode,
        chunk_size=8,
        domain_name="camera_pose",
        resolution_tier=256,
        raw_actions=torch.from_numpy(media.actions) if mode == "forward_dynamics" else None,
        video=pictures(media.frames),
    )
    theirs = reference(pipeline, action=condition)
    track = ActionTrack(mode, chunk_size=8)
    latents, decoded = run(world, asked(action=track), options(), media)
    assert torch.equal(latents.video, theirs.latents)
    assert np.array_equal(decoded.frames, theirs.frames)
    if mode == "forward_dynamics":
        assert decoded.actions is None
    else:
        assert np.array_equal(decoded.actions, theirs.action[0].numpy())
        assert decoded.actions.shape == (8, 9)


def actions(count: int, width: int = 9) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize(("weight", "num_given"), [(1.0, 0), (1.5, 5)])
def test_transfer_equals_the_modular_pipeline_bit_for_bit(world, modular, weight, num_given):
    import torch

    controls = {"seg": frames(9, 1), "edge": frames(9, 2)}
    given = frames(num_given) if num_given else None
    call = {} if given is None else {"video": pictures(given)}
    theirs = modular(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        control_videos={kind: pictures(video) for kind, video in controls.items()},
        control_guidance=weight,
        num_first_chunk_conditional_frames=num_given,
        generator=torch.Generator().manual_seed(3),
        output="videos",
        **{**CALL, **sized(), **call},
    )
    request = asked(controls=tuple(Control(kind, weight=weight) for kind in controls))
    _, decoded = run(world, request, options(), Media(frames=given, controls=controls))
    assert np.array_equal(decoded.frames, np.stack([np.asarray(one) for one in theirs]))


@pytest.fixture(scope="module")
def modular_four_steps(checkpoints):
    from gpu_jobs.cosmos_generate.backends.cosmos3_layout import FOUR_SIGMAS

    parts = diffusers_pipeline(checkpoints / FOUR_STEPS).components
    return modular_pipeline(
        "Cosmos3DistilledModularPipeline",
        "Cosmos3DistilledBlocks",
        {**parts, "sound_tokenizer": None},
        distilled_sigmas=list(FOUR_SIGMAS),
    )


@pytest.mark.parametrize("num_given", [0, 1, 5])
def test_four_steps_equal_the_modular_pipeline_bit_for_bit(
    distilled, modular_four_steps, num_given
):
    import torch

    given = frames(num_given) if num_given else None
    call: dict[str, Any] = {}
    if num_given:
        call = {"image": pictures(given)[0]} if num_given == 1 else {"video": pictures(given)}
    generator = torch.Generator().manual_seed(3)
    theirs = modular_four_steps(
        prompt=PROMPT, fps=24.0, generator=generator, output="videos", **sized(), **call
    )
    opts = options(num_steps=4, guidance=1.0, sampler="flow_euler")
    _, decoded = run(distilled, asked(), opts, Media(frames=given))
    assert np.array_equal(decoded.frames, np.stack([np.asarray(one) for one in theirs]))


def test_edge_equals_the_pipeline_bit_for_bit(checkpoints):
    import torch

    theirs = reference(diffusers_pipeline(checkpoints / EDGE), **sized())
    edge = load_model(replace(model("Tiny-Cosmos3"), name=EDGE), checkpoints)
    latents, decoded = run(edge, asked(), options())
    assert torch.equal(latents.video, theirs.latents)
    assert np.array_equal(decoded.frames, theirs.frames)


def test_bfloat16_equals_the_pipeline_bit_for_bit(checkpoints):
    import torch

    folder, given = checkpoints / "Tiny-Cosmos3", frames(1)
    call = {"image": pictures(given)[0], "enable_sound": True}
    theirs = reference(diffusers_pipeline(folder, dtype="bfloat16"), **sized(), **call)
    half = load_model(model("Tiny-Cosmos3"), checkpoints, dtype="bfloat16")
    latents, decoded = run(half, asked(sound=True), options(), Media(frames=given))
    assert half.pipeline.transformer.time_embedder.linear_1.weight.dtype == torch.float32
    assert torch.equal(latents.video, theirs.latents)
    assert np.array_equal(decoded.frames, theirs.frames)
    assert np.array_equal(decoded.sound, theirs.sound.float().numpy())


def test_text_is_read_in_the_first_step_alone(world):
    lengths: list[int] = []
    layer = world.pipeline.transformer.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, given: lengths.append(len(given[0])))
    run(world, asked(), options())
    hook.remove()
    assert min(lengths[:2]) > 10
    assert lengths[2:] == [0, 0, 0, 0]


def test_a_clip_without_guidance_takes_one_pass_a_step(world):
    policies = [Counting(guided=False), Counting()]
    run(world, asked(), options(policy=policies[0]))
    run(world, asked(), options(policy=policies[1], guidance=1.0))
    assert [policy.passes for policy in policies] == [["cond"] * 3] * 2


def test_clips_of_a_batch_are_what_they_are_alone(world):
    import torch

    requests = [asked(), asked(seed=4)]
    embeddings = [world.encode(PROMPT, NEGATIVE), world.encode("A quiet zoo.", NEGATIVE)]
    policy = Counting()
    opts = options(policy=policy)
    both = world.begin(requests, embeddings, opts, device="cpu", media=[Media(), Media()])
    for index in range(both.num_steps):
        both.step(index)
    alone, _ = run(world, asked(), options())
    assert torch.equal(both.latents()[0].video, alone.video)
    assert not torch.equal(both.latents()[1].video, alone.video)
    assert policy.passes[:4] == ["cond", "uncond", "1:cond", "1:uncond"]


@pytest.mark.parametrize("changes", [{"sampler": "flow_euler"}, {"extra": {"flow_shift": 10.0}}])
def test_another_schedule_makes_another_clip(world, changes):
    import torch

    plain, _ = run(world, asked(), options())
    other, decoded = run(world, asked(), options(**changes))
    assert not torch.equal(plain.video, other.video)
    assert decoded.frames.shape == (9, 32, 64, 3)


def test_a_clip_is_decoded_while_the_next_one_is_encoded(world):
    from gpu_jobs.cosmos_generate.backends.cosmos3_inputs import encoded, from_video

    latents, quiet = run(world, asked(), options())
    video_BCTHW, seen = from_video(frames(5)), []

    def encode_meanwhile(*_):
        seen.append(encoded(world.pipeline, video_BCTHW, num_frames=9))

    hook = world.parts["tokenizer"].decoder.register_forward_hook(encode_meanwhile)
    busy = world.decode(latents, asked(), options())
    hook.remove()
    assert len(seen) == 3
    assert np.array_equal(busy.frames, quiet.frames)


def test_prompts_of_the_atlas_fit(world):
    from tests.factories import make_scene
    from worldloop.atlas.atlas import load_atlas
    from worldloop.prompts.cosmos3 import cosmos3_prompt
    from worldloop.recipes import Shape

    scene = cosmos3_prompt(make_scene("street"), load_atlas(), Shape(9, 64, 32, 24))
    text = json.dumps(scene, sort_keys=True)
    assert world.encode(text, "").cond == text
    with pytest.raises(MalformedRecordError, match="tokens"):
        world.encode(text * 4, "")


def test_sentences_on_length_and_size_follow_words_and_not_json(world):
    from gpu_jobs.cosmos_generate.backends.cosmos3_inputs import _template_flags

    both = {"add_resolution_template": False, "add_duration_template": False}
    assert _template_flags(options(), "A street.") == {}
    assert _template_flags(options(), '{"subjects": []}') == both


def test_values_that_are_no_numbers_reject_the_clip(world):
    import torch

    latents, _ = run(world, asked(), options())
    latents.video[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ClipRejectedError, match="denoise"):
        world.decode(latents, asked(), options())


ACTIONS_OF = {"mode": "forward_dynamics", "chunk_size": 8}


@pytest.mark.parametrize(
    ("request_changes", "media", "message"),
    [
        (
            {"action": ActionTrack(**ACTIONS_OF)},
            Media(frames(1), actions=actions(8, 7)),
            "9 numbers",
        ),
        ({"action": ActionTrack(**ACTIONS_OF)}, Media(frames(1), actions=actions(5)), "8 rows"),
        ({"action": ActionTrack(**ACTIONS_OF)}, Media(frames(1)), "no file"),
        ({"action": ActionTrack("policy", chunk_size=8)}, Media(), "found 0, expected 1"),
        ({"action": ActionTrack("policy", chunk_size=4)}, Media(frames(1)), "5 frames"),
        ({"action": ActionTrack("inverse_dynamics", chunk_size=8)}, Media(frames(5)), "expected 9"),
        ({"action": ActionTrack("policy", domain="car")}, Media(frames(1)), "embodiment"),
        ({"action": ActionTrack("guess")}, Media(frames(1)), "action mode"),
        ({}, Media(controls={"normals": frames(9)}), "normals"),
        ({}, Media(controls={"vis": frames(9), "blur": frames(9)}), "read as blur"),
        ({"sound": True}, Media(controls={"edge": frames(9)}), "transfer makes no sound"),
    ],
)
def test_what_cannot_be_asked_is_refused(world, request_changes, media, message):
    with pytest.raises((MalformedRecordError, UnknownKeyError), match=message):
        run(world, asked(**request_changes), options(), media)


def test_a_picture_of_a_picture_is_refused(world):
    still = options(shape=replace(SHAPE, num_frames=1))
    with pytest.raises(MalformedRecordError, match="no pictures from pictures"):
        run(world, asked(), still, Media(frames(1)))


def test_controls_of_different_weights_are_refused(world):
    request = asked(controls=(Control("edge"), Control("seg", weight=0.5)))
    media = Media(controls={"edge": frames(9), "seg": frames(9)})
    with pytest.raises(MalformedRecordError, match="the same weight"):
        run(world, request, options(), media)


def test_sound_of_a_checkpoint_without_it_is_refused(checkpoints, tmp_path):
    copytree(checkpoints / "Tiny-Cosmos3", tmp_path / "Tiny-Cosmos3")
    rmtree(tmp_path / "Tiny-Cosmos3" / "sound_tokenizer")
    mute = load(tmp_path)
    assert "sound_tokenizer" not in mute.parts
    with pytest.raises(MalformedRecordError, match="without sound"):
        run(mute, asked(sound=True), options())


@pytest.mark.parametrize(
    ("changes", "request_changes", "message"),
    [
        ({"num_steps": 5}, {}, "distilled"),
        ({"guidance": 4.0}, {}, "distilled"),
        ({}, {"sound": True}, "distilled"),
    ],
)
def test_a_distilled_model_takes_its_four_steps_alone(distilled, changes, request_changes, message):
    given = {"num_steps": 4, "guidance": 1.0, "sampler": "flow_euler", **changes}
    with pytest.raises(MalformedRecordError, match=message):
        run(distilled, asked(**request_changes), options(**given))


def test_weights_of_another_size_are_refused(checkpoints):
    nano = replace(model("Cosmos3-Nano"), name="Tiny-Cosmos3")
    with pytest.raises(MalformedRecordError, match="36 layers of width 4096"):
        load_model(nano, checkpoints)


def test_post_trained_weights_take_the_place_of_the_models_own(checkpoints):
    from gpu_jobs.cosmos_generate.tiny.cosmos3 import write_tiny

    write_tiny(checkpoints / "posttrained", seed=7)
    known = model("Tiny-Cosmos3")
    own, trained = (
        load_model(known, checkpoints, transformer_dir=folder).pipeline.transformer.proj_in.weight
        for folder in ("", "posttrained")
    )
    assert not own.equal(trained)
    with pytest.raises(MalformedRecordError, match="no transformer/"):
        load_model(known, checkpoints, transformer_dir="nothing")


def test_weights_that_are_missing_are_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    copytree(checkpoints / "Tiny-Cosmos3", tmp_path / "Tiny-Cosmos3")
    path = tmp_path / "Tiny-Cosmos3/transformer/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("layers.1.mlp_moe_gen.up_proj.weight")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(MalformedRecordError, match=r"layers.1.mlp_moe_gen"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"_class_name": "CosmosTextToWorldPipeline"}', "weights of Cosmos3OmniPipeline"),
        ("{", "JSON"),
        (None, "no model_index.json"),
    ],
)
def test_folders_of_something_else_are_refused(checkpoints, tmp_path, index, message):
    folder = tmp_path / "Tiny-Cosmos3"
    copytree(checkpoints / "Tiny-Cosmos3/scheduler", folder / "scheduler")
    if index is not None:
        (folder / "model_index.json").write_text(index)
    with pytest.raises(MalformedRecordError, match=message):
        load(tmp_path)


def test_a_distilled_model_needs_its_noise_levels(checkpoints):
    plain = replace(model("Tiny-Cosmos3"), features=frozenset({"distilled"}))
    with pytest.raises(MalformedRecordError, match="distilled_sigmas"):
        load_model(plain, checkpoints)


def test_the_folder_is_written_alike_from_the_same_seed(checkpoints, tmp_path):
    from gpu_jobs.cosmos_generate.tiny.cosmos3 import write_tiny

    write_tiny(tmp_path / "again")
    first = sorted((checkpoints / "Tiny-Cosmos3").rglob("*.*"))
    assert {path.name for path in first} >= {"model_index.json", "scheduler_config.json"}
    for path in first:
        again = tmp_path / "again" / path.relative_to(checkpoints / "Tiny-Cosmos3")
        assert path.is_dir() or path.read_bytes() == again.read_bytes()


@cache
def real_shapes(size: str) -> Any:
    import torch

    from gpu_jobs.cosmos_generate.backends.cosmos3_layout import TRANSFORMERS

    diffusers = import_diffusers()
    with torch.device("meta"):
        return diffusers.Cosmos3OmniTransformer(**TRANSFORMERS[size])


@pytest.mark.parametrize("size", ["Edge", "Nano", "Super"])
def test_published_shapes_agree_with_the_registry(size):
    from gpu_jobs.cosmos_generate.backends.cosmos3_layout import VAE

    known = model(f"Cosmos3-{size}")
    net = real_shapes(size)
    config = net.config
    assert (config.num_hidden_layers, config.hidden_size) == (known.num_layers, known.token_width)
    assert (config.num_attention_heads, config.num_key_value_heads) == (
        known.num_heads,
        known.num_kv_heads or known.num_heads,
    )
    assert config.latent_channel == known.latent_channels == VAE["z_dim"]
    billions = sum(parameter.numel() for parameter in net.parameters()) / 1e9
    assert billions == pytest.approx(known.params_b, rel=0.2)  # its makers count all parts
