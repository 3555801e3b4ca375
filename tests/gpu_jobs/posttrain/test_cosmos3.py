"""Cosmos 3: what its training asks is what inference asks, its numbers are the published ones, and adapters travel."""

import hashlib
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.backends.cosmos3_denoising import Latents
from gpu_jobs.cosmos_generate.lora import apply_loras
from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media
from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from gpu_jobs.posttrain import recipes
from gpu_jobs.posttrain.base import BaseKey, Bases
from gpu_jobs.posttrain.cosmos3 import is_generators, shift_of, times_of
from gpu_jobs.posttrain.encodings import encoded
from gpu_jobs.posttrain.exports import place_post_trained
from gpu_jobs.posttrain.footage import read_folder
from gpu_jobs.posttrain.judge import judge
from gpu_jobs.posttrain.learner import NEGATIVE, WORDLESS, Draws, Learner, decay_of
from gpu_jobs.posttrain.lora import target_layers
from gpu_jobs.posttrain.measure import measure
from gpu_jobs.posttrain.objectives import Batch, noise_of, objective_of
from gpu_jobs.posttrain.parallel import Fleet
from gpu_jobs.posttrain.spec import JudgeSpec, MeasureSpec
from gpu_jobs.posttrain.training import train, training_of
from tests.gpu_jobs.posttrain.tiny_footage import SHAPE, moving_square, spec, write_clips
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import initial_adapter, read_adapter
from worldloop.federation.rounds import LORA_TARGETS, Training

NANO, EDGE = "Tiny-Cosmos3", "Tiny-Cosmos3-Edge"
BASES = Bases(most=4)
STRUCTURED = json.dumps({"subjects": [{"description": "people"}], "fps": 24})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cosmos3")
    for name in (NANO, EDGE):
        write_tiny_checkpoint(name, folder)
    return folder


@pytest.fixture
def ask(site, checkpoints, tmp_path):
    """Makes specs whose output lies in the test's own folder."""

    def make(name="out", **changes):
        changes = {"model": NANO, **changes}
        return spec(site, checkpoints, output_dir=str(tmp_path / name), **changes)

    return make


def base_of(checkpoints, name=NANO, **changes):
    return BASES.get(BaseKey(name, str(checkpoints), precision="fp32", **changes))


def trained(asked, on_event=lambda event: None):
    """The report and what was trained."""
    report = train(asked, on_event, BASES)
    kind = "delta" if asked.training["mode"] == "full" else "adapter"
    return report, read_adapter(Path(asked.output_dir) / f"{kind}.safetensors")


def windows_of(base, given=(0,), caption="A street.", shape=SHAPE):
    """A batch of moving squares."""
    latents = [base.encode_frames(moving_square(n, shape.num_frames)) for n in range(len(given))]
    contexts = [base.encode_caption(caption, shape) for _ in given]
    return Batch(torch.stack(latents), torch.stack(contexts), shape, base.latent_frames(given))


def answer(transformer, base, time=0.5, given=0):
    """What a transformer says of a noisy window of fixed numbers."""
    latent = torch.randn(48, 3, 3, 4, generator=torch.Generator().manual_seed(2))
    context = base.encode_caption("A street.", SHAPE)
    with torch.no_grad():
        return base.objective.velocity(transformer, latent, context, SHAPE, time=time, given=given)


@pytest.mark.parametrize(("given", "caption"), [(0, "A street."), (1, "A street."), (5, "A sign.")])
def test_training_asks_what_inference_asks(checkpoints, given, caption):
    base = base_of(checkpoints)
    frames = moving_square(1, SHAPE.num_frames)
    denoising = base.world.begin(
        [ClipRequest("a", seed=3)],
        [base.world.encode(caption, "")],
        DenoiseOptions(SHAPE, 6, 6.0, "unipc"),
        device="cpu",
        media=[Media(frames=frames[:given] if given else None)],
    )
    clip = denoising.clips[0]
    clean = base.encode_frames(frames)[None]
    if given:  # latents of given frames are those that inference conditions on
        first = base.latent_frames([given])[0]
        torch.testing.assert_close(clean[:, :, :first], clip.state.video[:, :, :first])
    time = clip.schedule.timestep(2) / 1000
    mark = (1 - clip.noisy).view(1, 1, -1, 1, 1)
    noisy = (1 - time) * clean + time * torch.randn(clean.shape)
    seen = mark * clean + (1 - mark) * noisy
    with torch.no_grad():
        expected = clip.passes.run("cond", Latents(seen), clip.schedule.timestep(2))[0]
        found = base.objective.velocity(
            base.transformer,
            seen[0],
            base.encode_caption(caption, SHAPE),
            SHAPE,
            time=time,
            given=base.latent_frames([given])[0],
        )
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-5)


def test_times_have_the_published_distribution():
    even = np.linspace(1e-4, 1 - 1e-4, 4001)  # of the published sampler: a uniform number u
    raw = 1 - even - 1.29 * (np.cos(np.pi * even / 2) ** 2 - 1 + even)
    for size, shift in (((320, 192), 3), ((832, 480), 5), ((1280, 720), 10), ((1280, 704), 10)):
        shape = ClipShape(61, *size, 24)
        expected = np.sort(shift * raw / (1 + (shift - 1) * raw))
        found = times_of(torch.from_numpy(even), shape).numpy()
        assert np.all(np.diff(found) > 0)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_times_that_steps_draw_are_the_published_samplers():
    places = np.random.default_rng(1).random(20_000)
    even = np.random.default_rng(2).random(20_000)
    raw = 1 - even - 1.29 * (np.cos(np.pi * even / 2) ** 2 - 1 + even)
    expected = np.sort(3 * raw / (1 + 2 * raw))
    found = np.sort(times_of(torch.from_numpy(places), SHAPE).numpy())
    grid = np.linspace(0, 1, 200)
    below = [np.searchsorted(each, grid) / 20_000 for each in (found, expected)]
    assert np.abs(below[0] - below[1]).max() < 0.0163  # Kolmogorov-Smirnov, one in a hundred


def test_times_of_pictures_are_logistic_normal_and_shifted():
    picture = ClipShape(1, 320, 192, 24)
    found = times_of(torch.tensor([0.5, 0.8413447460685429]), picture).numpy()
    raw = 1 / (1 + np.exp(-np.array([0.0, 1.0])))
    np.testing.assert_allclose(found, 3 * raw / (1 + 2 * raw), rtol=1e-5)


def test_windows_without_a_published_shift_are_refused():
    with pytest.raises(MalformedRecordError, match="a shorter side of at most 960"):
        shift_of(ClipShape(61, 1920, 1072, 24))


@pytest.mark.parametrize("given", [0, 1, 5])
def test_the_loss_is_the_published_one_by_other_arithmetic(checkpoints, given, monkeypatch):
    base = base_of(checkpoints)
    batch, seen = windows_of(base, (given,)), {}
    forward = base.transformer.forward

    def noted(**told):
        seen.update(told, answer=forward(**told))
        return seen["answer"]

    monkeypatch.setattr(base.transformer, "forward", noted)
    noise, place = noise_of(batch, [9]), torch.tensor([0.3], dtype=torch.float64)
    with torch.no_grad():
        found = float(base.objective.losses(base.transformer, batch, place, noise))

    clean, drawn = batch.latent[0].numpy(), noise.normal("latent", batch.latent)[0].numpy()
    bent = np.cos(np.pi / 2 * 0.7) ** 2 - 1 + 0.7
    raw = 1 - 0.7 - 1.29 * bent
    time = 3 * raw / (1 + 2 * raw)
    frames = {0: 0, 1: 1, 5: 2}[given]
    inputs = drawn * time + clean * (1 - time)
    inputs[:, :frames] = clean[:, :frames]
    np.testing.assert_allclose(seen["vision_tokens"][0][0].numpy(), inputs, atol=1e-5)
    assert np.allclose(seen["vision_timesteps"].numpy(), 1000 * time, rtol=1e-5)
    assert len(seen["vision_timesteps"]) == (3 - frames) * 2 * 2  # tokens with noise, text has none
    velocity = seen["answer"][0][0][0].numpy()
    wrong = (velocity - (drawn - clean))[:, frames:]
    assert found == pytest.approx(float((wrong**2).sum()) / clean.size, rel=1e-4)


def test_captions_are_told_length_and_size_in_prose_but_not_in_json(checkpoints):
    base = base_of(checkpoints)
    pipeline = base.world.pipeline

    def words(context):
        ids = [number - 1 for number in context.flatten().tolist() if number]
        return pipeline.text_tokenizer.decode(ids)

    told = "The video is 0.4 seconds long and is of 24 FPS. This video is of 48x64 resolution."
    assert f"A street. {told}" in words(base.encode_caption("A street.", SHAPE))
    assert "resolution." not in words(base.encode_caption(STRUCTURED, SHAPE))
    assert STRUCTURED in words(base.encode_caption(STRUCTURED, SHAPE))
    dropped = [base.dropped_caption(SHAPE, negative=each) for each in (True, False)]
    assert torch.equal(*dropped)
    assert "user\n<|im_end|>" in words(dropped[0])
    with pytest.raises(MalformedRecordError, match="at most 4096"):
        base.encode_caption("street " * 5000, SHAPE)


def test_a_caption_with_another_shape_is_another_file():
    objective = objective_of(model(NANO))
    longer = replace(SHAPE, num_frames=13)
    keys = [objective.caption_key("A.", shape) for shape in (SHAPE, longer)]
    assert keys[0] != keys[1]
    words = hashlib.sha256(b"A.").hexdigest()  # what is taken back is removed by
    assert all(key.startswith(words) for key in keys)


def test_an_adapter_is_of_the_generator_and_every_layer_of_it_learns(ask, checkpoints):
    transformer = base_of(checkpoints).transformer
    before = {name: one.clone() for name, one in transformer.state_dict().items()}
    asked = ask(training={"num_steps": 3})
    _, end = trained(asked)
    start = read_adapter(Path(asked.output_dir) / "start.safetensors")
    layers = {name.rsplit(".lora_", 1)[0] for name in end}
    ends = {layer.split(".", 2)[2] for layer in layers}
    attention = {f"self_attn.{part}" for part in ("add_q_proj", "add_k_proj", "add_v_proj")}
    mlp = {f"mlp_moe_gen.{part}_proj" for part in ("gate", "up", "down")}
    assert ends == attention | mlp | {"self_attn.to_add_out"}
    assert len(layers) == 2 * len(ends)
    assert not [name for name in end if np.array_equal(start[name], end[name])]
    after = transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_reach_adapted_layers_alone(checkpoints, site, ask):
    base = base_of(checkpoints)
    training = training_of(ask(training={"targets": ["add_v_proj"], "first_blocks": 1}))
    start = initial_adapter(
        1, target_layers(base.transformer, training.targets, first_blocks=1), training.rank
    )
    windows = encoded(base, read_folder(site / "footage"), training, site / "footage" / "cache")
    learner = Learner(
        base, training, Draws(windows, training, 1, "aws"), start=start, fleet=Fleet()
    )
    try:
        learner.step(None, 0, rate=1.0)
        reached = {
            name for name, one in base.transformer.named_parameters() if one.grad is not None
        }
    finally:
        learner.close()
    stem = "layers.0.self_attn.add_v_proj.lora_"
    assert reached == {f"{stem}A.weight", f"{stem}B.weight"}


@pytest.mark.parametrize("name", [NANO, EDGE])
def test_all_weights_are_those_of_the_generator(ask, checkpoints, name):
    asked = ask(model=name, training={"mode": "full", "ema_rate": 0.1, "num_steps": 2})
    _, delta = trained(asked)
    parameters = dict(base_of(checkpoints, name).transformer.named_parameters())
    assert delta.keys() == {each for each in parameters if is_generators(each)}
    assert all(np.any(each) for each in delta.values())
    kinds = {each.rpartition(".")[0].rpartition(".")[2] for each in delta}
    assert {"proj_in", "proj_out", "norm_moe_gen", "linear_1", "linear_2"} <= kinds
    assert ("k_norm_und_for_gen" in kinds) == (name == EDGE)
    assert not {"to_q", "embed_tokens", "audio_proj_in", "action_proj_in"} & kinds


@pytest.mark.parametrize(("mode", "most"), [("lora", 0.9), ("full", 0.75)])
def test_the_loss_on_one_clip_falls(ask, checkpoints, tmp_path, mode, most):
    write_clips(tmp_path / "one", 1)
    fields = {"num_steps": 60, "rank": 8, "alpha": 16.0, "learning_rate": 1e-2, "mode": mode}
    _, end = trained(ask(footage_dir=str(tmp_path / "one"), training=fields))
    base = base_of(checkpoints)
    batch = windows_of(base, caption="A square of colour number 0.")

    def loss():
        return np.mean(
            [
                base.denoising_losses(
                    batch.latent, batch.context, shape=SHAPE, place=place, seeds=[5]
                )
                for place in (0.25, 0.5, 0.75)
            ]
        )

    before = loss()
    with base.adapted(end, alpha=16.0):
        after = loss()
    assert after < most * before
    assert loss() == before


class StoppedError(Exception):
    """Stands for a kill between two steps."""


def test_a_stopped_training_goes_on_at_its_step_with_the_same_bytes(ask):
    training = {"num_steps": 5, "conditioning_frames": [0, 1, 5], "ema_rate": 0.1}
    _, whole = trained(ask("whole", training=training))

    def stop(event):
        if event["event"] == "step" and event["step"] == 3:
            raise StoppedError

    asked = ask("stopped", training=training, checkpoint_every_s=0.0)
    with pytest.raises(StoppedError):
        train(asked, stop, BASES)
    report, again = trained(asked)
    assert report.resumed_at == 2
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    _, other = trained(ask("other", training=training, site="gcp"))
    assert not all(np.array_equal(whole[name], other[name]) for name in whole)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_bf16_with_activations_computed_again_trains(ask, mode):
    fields = {"mode": mode, "precision": "bf16", "checkpoint_blocks": True}
    report, end = trained(ask(training=fields))
    assert np.isfinite(report.norm)
    assert report.norm > 0 < report.tflops
    assert all(one.dtype == np.float32 for one in end.values())


def pipeline_of(checkpoints, name):
    """The pipeline of diffusers itself."""
    with warnings.catch_warnings():
        # diffusers 0.42.1 builds the sound decoder with a function that torch calls deprecated
        warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)
        return import_diffusers().Cosmos3OmniPipeline.from_pretrained(
            checkpoints / name, enable_safety_checker=False
        )


EXPORT = {"project": "cosmos3", "group": "sft", "name": "mine"}


@pytest.mark.parametrize("name", [NANO, EDGE])
def test_diffusers_own_pipeline_loads_the_adapter(ask, checkpoints, tmp_path, name):
    asked = ask(model=name, training={"alpha": 6.0}, export={**EXPORT, "root": str(tmp_path)})
    report, end = trained(asked)
    (path,) = report.exports
    pipeline = pipeline_of(checkpoints, name)
    base = base_of(checkpoints, name)
    with base.adapted(end, alpha=6.0):
        expected = answer(base.transformer, base)
    plain = answer(pipeline.transformer, base)
    merged = pipeline.transformer.__class__.from_pretrained(checkpoints / name / "transformer")
    pipeline.transformer.load_lora_adapter(path, prefix="transformer")
    apply_loras(merged, [{"path": path}])
    assert not torch.allclose(plain, expected, atol=1e-3)
    for transformer in (pipeline.transformer, merged):
        torch.testing.assert_close(answer(transformer, base), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its scheduler
def test_a_pipeline_with_an_adapter_makes_other_clips(ask, checkpoints, tmp_path):
    asked = ask(training={"num_steps": 4}, export={**EXPORT, "root": str(tmp_path)})
    report, _ = trained(asked)
    pipeline = pipeline_of(checkpoints, NANO)
    pipeline.set_progress_bar_config(disable=True)

    def clip():
        return pipeline(
            prompt="A street.", num_frames=5, height=48, width=64, num_inference_steps=2,
            generator=torch.Generator().manual_seed(1), output_type="latent",
        ).video  # fmt: skip

    before = clip()
    pipeline.transformer.load_lora_adapter(report.exports[0], prefix="transformer")
    after = clip()
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)


def test_diffusers_loads_all_weights_and_training_goes_on_from_them(ask, checkpoints, tmp_path):
    export = {**EXPORT, "root": str(tmp_path)}
    asked = ask(training={"mode": "full", "ema_rate": 0.1, "precision": "fp32"}, export=export)
    report, delta = trained(asked)
    regular, averaged = map(Path, report.exports)
    assert [regular.name, averaged.name] == ["iter_000000002_reg", "iter_000000002_ema"]
    base = base_of(checkpoints)
    with base.adapted(delta, alpha=1.0):
        expected = answer(base.transformer, base)
    loaded, told = import_diffusers().Cosmos3OmniTransformer.from_pretrained(
        averaged / "transformer", output_loading_info=True
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(answer(loaded, base), expected, atol=1e-5, rtol=1e-5)
    folder = place_post_trained(averaged, checkpoints, model(NANO), lora=False)
    again = base_of(checkpoints, transformer_dir=folder.name)
    torch.testing.assert_close(answer(again.transformer, again), expected, atol=1e-5, rtol=1e-5)


def test_adapters_are_measured_and_clips_judged_with_cosmos3(ask, checkpoints, site):
    asked = ask(training={"num_steps": 8})
    trained(asked)
    path = f"{asked.output_dir}/adapter.safetensors"
    clips = [str(site / "footage" / "videos" / f"c{number}.mp4") for number in range(2)]
    report = measure(
        MeasureSpec(
            NANO, "tiny", str(checkpoints), asked.footage_dir,
            ({"name": "before", "path": ""}, {"name": "after", "path": path}),
            asdict(SHAPE), 5, noise_levels=2, precision="fp32", device="cpu", alpha=2.0,
            cities=("city0",), memorisation=True, samples={"after": clips},
        ),
        bases=BASES,
    )  # fmt: skip
    before, after = ({k: v for k, v in row.items() if "loss" in k} for row in report.losses)
    assert before.keys() == after.keys() == {"loss"}
    assert before != after
    assert report.nearest[1]["similarity"] == pytest.approx(1.0, abs=1e-3)  # it is footage itself
    groups = ({"name": "before", "clips": clips, "prompts": ["A.", "B."]},)
    judged = judge(
        JudgeSpec(
            groups, footage_dir=asked.footage_dir, model=NANO, checkpoint_dir=str(checkpoints),
            device="cpu", precision="fp32",
        ),
        bases=BASES,
    )  # fmt: skip
    assert any(row["measure"] == "kernel_distance_latent" for row in judged.scores)


def test_windows_cover_their_size_and_are_cropped(checkpoints):
    rule = base_of(checkpoints).objective.fit
    assert (rule.fit, rule.take) == ("cover", "first")


@pytest.mark.parametrize(
    ("name", "found"),
    [("Tiny-Cosmos3-4Step", "four steps"), ("Cosmos3-Nano-Policy-DROID", "a model of actions")],
)
def test_models_whose_training_is_another_are_refused(name, found):
    with pytest.raises(MalformedRecordError, match=found):
        objective_of(model(name))


@pytest.mark.parametrize("target", ["to_q", "mlp.up_proj", "audio_proj_in"])
def test_layers_of_the_reasoner_are_refused(checkpoints, target):
    with pytest.raises(MalformedRecordError, match="of the generator, such as 'add_q_proj'"):
        target_layers(base_of(checkpoints).transformer, (target,))


def test_a_name_that_both_towers_have_means_the_generators(checkpoints):
    layers = target_layers(base_of(checkpoints).transformer, ("up_proj",))
    assert set(layers) == {f"layers.{number}.mlp_moe_gen.up_proj" for number in (0, 1)}


def test_an_edge_model_has_targets_without_a_gate(checkpoints):
    layers = target_layers(base_of(checkpoints, EDGE).transformer, LORA_TARGETS)
    assert len(layers) == 2 * 6
    assert not [name for name in layers if "gate" in name]


def test_heads_that_processes_do_not_divide_are_refused(checkpoints):
    fleet = Fleet(size=3, rank=0, sharers=3)
    with pytest.raises(MalformedRecordError, match="for 2 attention heads"):
        fleet.share_tokens(base_of(checkpoints).transformer)


def test_the_optimizer_is_the_published_one():
    nano, edge = (objective_of(model(name)).descent for name in ("Cosmos3-Nano", "Cosmos3-Edge"))
    assert (nano.betas, nano.eps, nano.gradient_norm) == ((0.9, 0.95), 1e-6, 0.1)
    # a loss of ten times the size, clipped and divided by its own size, steps as far
    assert (edge.eps, edge.gradient_norm) == pytest.approx((1e-7, 0.01))
    first = objective_of(model("Cosmos-Predict2-2B-Video2World")).descent
    assert (first.betas, first.eps, first.gradient_norm) == ((0.9, 0.99), 1e-10, 1.0)


def test_an_average_follows_a_power_of_the_steps():
    training = Training(SHAPE, ema_rate=0.1)
    power = max(root.real for root in np.roots([1, 7, 16 - 100, 12 - 100]))
    expected = [(1 - 1 / (step + 1)) ** (power + 1) for step in (1, 10, 500)]
    assert [decay_of(training, step) for step in (1, 10, 500)] == pytest.approx(expected)


def test_recipes_are_the_published_trainings():
    folders = {"footage_dir": "f", "checkpoint_dir": "c", "output_dir": "o"}
    nano, edge, large = (
        training_of(recipe(**folders, num_gpus=4))
        for recipe in (recipes.cosmos3_nano, recipes.cosmos3_edge, recipes.cosmos3_super_lora)
    )
    assert nano == edge
    assert (nano.mode, nano.learning_rate, nano.num_steps, nano.batch_size) == (
        "full",
        1e-4,
        500,
        8,
    )
    assert (nano.warmup_steps, nano.cosine_steps, nano.ema_rate) == (50, 1000, 0.1)
    shares = [nano.conditioning_frames.count(each) / 10 for each in (0, 1, 5)]
    assert (shares, nano.caption_dropout) == ([0.7, 0.2, 0.1], 0.1)
    assert (large.mode, large.rank, large.alpha, large.learning_rate) == ("lora", 16, 32.0, 5e-4)
    assert large.targets == ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    assert not large.averages


def test_dropped_captions_are_drawn_as_for_other_families(checkpoints):
    base = base_of(checkpoints)
    learner = Learner.__new__(Learner)
    learner.base, learner.training = base, Training(SHAPE)
    both = [learner._context(caption) for caption in (WORDLESS, NEGATIVE)]
    assert torch.equal(*both)
