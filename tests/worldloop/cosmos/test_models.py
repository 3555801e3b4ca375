import re

import pytest

from worldloop.cosmos.companions import COMPANIONS, companion
from worldloop.cosmos.families import FAMILIES, ClipShape
from worldloop.cosmos.guards import default_guards
from worldloop.cosmos.models import MODELS, model, select
from worldloop.errors import MalformedRecordError, UnknownKeyError

PUBLISHED = [one for one in MODELS.values() if not one.tiny]
TINY = [
    "Pocket-Cosmos-1.0-Text2World",
    "Tiny-Cosmos-1.0-Text2World",
    "Tiny-Cosmos-1.0-Video2World",
    "Tiny-Cosmos-Predict2-Text2Image",
    "Tiny-Cosmos-Predict2-Video2World",
    "Tiny-Cosmos-Predict2.5",
    "Tiny-Cosmos-Transfer2.5",
    "Tiny-Cosmos3",
    "Tiny-Cosmos3-Edge",
    "Tiny-Cosmos3-4Step",
]


def test_names_are_keys_and_families_exist():
    assert all(name == one.name for name, one in MODELS.items())
    assert {one.family for one in MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_a_published_model_can_be_fetched_and_is_described(one):
    assert re.fullmatch(r"nvidia/Cosmos[\w.-]+", one.repo_id)
    assert one.revision
    assert one.licence in ("NVIDIA Open Model License", "OpenMDW-1.1")
    assert set(one.all_tasks) <= set(one.record.tasks)
    assert one.task in one.all_tasks
    assert all(name in COMPANIONS for name in (*one.needs, *one.guards, *one.upsamplers))


@pytest.mark.parametrize("one", [*PUBLISHED, *COMPANIONS.values()], ids=lambda one: one.name)
def test_a_revision_is_a_commit_or_a_branch(one):
    assert re.fullmatch(r"[0-9a-f]{40}|main|diffusers/[\w/-]+", one.revision)


def test_every_tiny_model_is_small_and_has_no_repository():
    assert [one.name for one in MODELS.values() if one.tiny] == TINY
    for name in TINY:
        one = model(name)
        assert (one.repo_id, one.default_shape.width_px) == ("", 64)
        assert one.default_shape.num_frames in (1, 9)
        assert one.record is model_of_line(one.family).record


def model_of_line(key):
    return next(one for one in PUBLISHED if one.family == key)


@pytest.mark.parametrize(
    ("name", "parameters_b"),
    [
        ("Cosmos-1.0-Diffusion-7B-Text2World", 7.24),
        ("Cosmos-1.0-Diffusion-14B-Video2World", 14.26),
        ("Cosmos-Predict2-0.6B-Text2Image", 0.60),
        ("Cosmos-Predict2-2B-Video2World", 1.96),
    ],
)
def test_parameters_follow_from_the_shape_of_the_network(name, parameters_b):
    one = model(name)
    width, blocks = one.token_width, one.num_layers
    attention = 6 * width * width + 2 * width * 1024  # self, then cross to T5's 1,024 channels
    modulation = 3 * (256 * width + 256 * 3 * width)
    per_block = attention + 8 * width * width + modulation
    embeddings = 4 * width * width

    assert (blocks * per_block + embeddings) / 1e9 == pytest.approx(parameters_b, rel=0.01)
    assert one.params_b == parameters_b


def test_cosmos3_steps_multiply_with_the_generator_alone():
    one = model("Cosmos3-Nano")
    inner, kv = one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim
    per_block = one.width * (2 * inner + 2 * kv) + 3 * one.width * one.mlp_width

    assert one.num_layers * per_block / 1e9 == pytest.approx(one.active_params_b, rel=0.01)


@pytest.mark.parametrize(
    ("name", "shape", "tokens"),
    [
        ("Cosmos-1.0-Diffusion-7B-Text2World", ClipShape(121, 1280, 704, 24), 56_320),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(93, 1280, 704, 16), 84_480),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(61, 432, 240, 16), 6_480),
        ("Cosmos3-Nano", ClipShape(189, 1280, 720, 24), 44_160),
    ],
)
def test_tokens_are_those_of_the_real_networks(name, shape, tokens):
    assert model(name).num_tokens(shape) == tokens


def test_the_seeds_sizes_and_types_select_cosmos_1():
    names = [one.name for one in select(("7B", "14B"), ("Text2World", "Video2World"))]

    assert sorted(names) == sorted(
        f"Cosmos-1.0-Diffusion-{size}-{kind}"
        for size in ("7B", "14B")
        for kind in ("Text2World", "Video2World")
    )


def test_2b_and_14b_select_predict2():
    names = [one.name for one in select(("2B", "14B"), ("Video2World",))]

    assert names == ["Cosmos-Predict2-2B-Video2World", "Cosmos-Predict2-14B-Video2World"]


def test_a_line_may_be_named():
    names = [one.name for one in select(("14B",), ("Text2World",), line="predict1")]

    assert names == ["Cosmos-Predict1-14B-Text2World"]


def test_what_does_not_exist_together_is_refused():
    with pytest.raises(MalformedRecordError, match="worldloop models list"):
        select(("0.6B",), ("Video2World",))


def test_a_misspelled_model_is_helped():
    with pytest.raises(UnknownKeyError, match="Did you mean 'Cosmos3-Nano'"):
        model("Cosmos3-Nanno")


def test_the_hub_asks_to_accept_licences_of_guards():
    gated = {name for name, one in COMPANIONS.items() if one.gated}

    assert {"Cosmos-1.0-Guardrail", "Cosmos-Guardrail1", "meta-llama/LlamaGuard-7b"} <= gated
    assert companion("google-t5/t5-11b").ignore == ("tf_model.h5",)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_a_model_brings_the_guards_that_its_family_runs(one):
    language_model = {"aegis": "meta-llama/LlamaGuard-7b"}
    llm = default_guards(one.record)["text"][1]

    assert language_model.get(llm, "meta-llama/Llama-Guard-3-8B") in one.guards


def test_distilled_models_bring_their_own_steps():
    one = model("Cosmos3-Super-Image2Video-4Step")

    assert (one.default_steps, one.default_guidance) == (4, 1.0)
    assert one.known_samplers == ("flow_euler",)
