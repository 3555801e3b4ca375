"""Measuring adapters: the same noise under each, and what samples repeat."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from gpu_jobs.posttrain.base import BaseKey, Bases
from gpu_jobs.posttrain.lora import target_layers
from gpu_jobs.posttrain.measure import levels, measure, nearest_similarities
from gpu_jobs.posttrain.spec import MeasureSpec
from tests.gpu_jobs.posttrain.tiny_footage import (
    SHAPE,
    TEXT2WORLD,
    moving_square,
    write_clips,
    write_video,
)
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import adapter_bytes, initial_adapter
from worldloop.federation.evaluation import paired_losses
from worldloop.federation.rounds import LORA_TARGETS


@pytest.fixture(scope="module")
def bases():
    return Bases()


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("measured") / "footage", 5)


@pytest.fixture(scope="module")
def adapters(bases, checkpoint_dir, tmp_path_factory):
    """The base, an adapter that changes nothing, and one that does."""
    folder = tmp_path_factory.mktemp("adapters")
    base = bases.get(BaseKey(TEXT2WORLD, str(checkpoint_dir), precision="fp32"))
    start = initial_adapter(1, target_layers(base.transformer, LORA_TARGETS), 2)
    rng = np.random.default_rng(2)
    moved = {k: v + rng.normal(0, 0.3, v.shape).astype(np.float32) for k, v in start.items()}
    for name, adapter in (("start", start), ("moved", moved)):
        (folder / f"{name}.safetensors").write_bytes(adapter_bytes(adapter))
    return folder


def spec(footage, checkpoint_dir, folder, **changes):
    fields = {
        "model": TEXT2WORLD,
        "revision": "tiny",
        "checkpoint_dir": str(checkpoint_dir),
        "footage_dir": str(footage),
        "adapters": (
            {"name": "before", "path": ""},
            {"name": "after", "path": str(folder / "moved.safetensors")},
        ),
        "shape": asdict(SHAPE),
        "seed": 5,
        "noise_levels": 2,
        "precision": "fp32",
        "device": "cpu",
        "cities": ("city0", "city1"),
    }
    return MeasureSpec(**{**fields, **changes})


@pytest.fixture(scope="module")
def report(footage, checkpoint_dir, adapters, bases):
    return measure(spec(footage, checkpoint_dir, adapters), bases=bases)


def test_every_clip_is_measured_under_every_adapter(report):
    paired = paired_losses(asdict(report), site="aws")
    assert [(row.recipe_id, row.place) for row in paired] == [
        ("r0", "city0/street"),
        ("r1", "city1/street"),
    ]
    assert all(row.before != row.after and row.before_other != row.before for row in paired)
    assert report.num_clips == 2


def test_a_report_holds_ids_and_numbers_alone(report, footage):
    text = json.dumps(asdict(report))
    assert "square" not in text
    assert str(footage) not in text


def test_an_adapter_that_changes_nothing_measures_as_the_base(
    footage, checkpoint_dir, adapters, bases, report
):
    asked = (
        {"name": "before", "path": ""},
        {"name": "after", "path": str(adapters / "start.safetensors")},
    )
    found = measure(spec(footage, checkpoint_dir, adapters, adapters=asked), bases=bases)
    assert all(row.change == 0 for row in paired_losses(asdict(found), site="aws"))
    before = [row for row in report.losses if row["adapter"] == "before"]
    assert found.losses[: len(before)] == before


def test_a_clip_meets_the_same_noise_whatever_is_measured_beside_it(
    footage, checkpoint_dir, adapters, bases, report
):
    alone = measure(
        spec(footage, checkpoint_dir, adapters, cities=("city1",), other_captions=False),
        bases=bases,
    )
    expected = {row["adapter"]: row["loss"] for row in report.losses if row["recipe_id"] == "r1"}
    assert {row["adapter"]: row["loss"] for row in alone.losses} == expected


def test_another_seed_is_other_noise(footage, checkpoint_dir, adapters, bases, report):
    other = measure(spec(footage, checkpoint_dir, adapters, seed=6), bases=bases)
    assert all(
        one["loss"] != two["loss"] for one, two in zip(other.losses, report.losses, strict=True)
    )


def test_a_copy_of_training_footage_is_found_and_other_samples_are_not(
    footage, checkpoint_dir, adapters, bases, tmp_path
):
    copied, other = tmp_path / "copied.mp4", tmp_path / "other.mp4"
    shutil.copy(footage / "videos" / "c3.mp4", copied)
    write_video(other, np.ascontiguousarray(moving_square(77, 9)[:, ::-1, ::-1]))
    asked = {"after": [str(copied), str(other)]}
    found = measure(
        spec(footage, checkpoint_dir, adapters, memorisation=True, samples=asked), bases=bases
    )
    copy, unlike = found.nearest
    assert copy["similarity"] == pytest.approx(1.0, abs=1e-4)
    assert copy["similarity"] > copy["typical"]
    assert unlike["similarity"] < 0.9


def test_the_nearest_is_found_over_many_blocks():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = nearest_similarities(rows[[0, 150, 199]], iter(rows))
    np.testing.assert_allclose(found, 1.0, atol=1e-6)
    assert levels(4) == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapters": ()}, "adapters to measure"),
        ({"adapters": ({"name": "after", "path": "/gone/a.safetensors"},)}, "a.safetensors"),
        ({"noise_levels": 0}, "at least 1"),
        ({"memorisation": True}, "held-out cities"),
        ({"memorisation": True, "samples": {"after": ["x.mp4"]}, "cities": ()}, "held-out cities"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_error(
    footage, checkpoint_dir, adapters, changes, words
):
    with pytest.raises(MalformedRecordError, match=words):
        measure(spec(footage, checkpoint_dir, adapters, **changes))


def test_a_city_without_clips_gives_an_empty_report(footage, checkpoint_dir, adapters, bases):
    found = measure(spec(footage, checkpoint_dir, adapters, cities=("nowhere",)), bases=bases)
    assert (found.num_clips, found.losses) == (0, [])
