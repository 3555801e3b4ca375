import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from gpu_jobs.common.entry import read_spec
from gpu_jobs.embed_clips.model import EmbedModel
from gpu_jobs.train_embedder import recipes
from gpu_jobs.train_embedder.evaluate import distances, evaluate, format_rows, precision_at
from gpu_jobs.train_embedder.job import train_embedder
from gpu_jobs.train_embedder.shards import read_shards
from gpu_jobs.train_embedder.spec import TrainEmbedderSpec
from tests.gpu_jobs.frame_shards import write_colored_shards
from worldloop.errors import JobFailedError, MalformedRecordError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write_colored_shards(root / "train", seed=1)
    write_colored_shards(root / "holdout", seed=2)
    return root


@pytest.fixture(scope="module")
def trained(shards):
    model = shards / "model"
    spec = recipes.tiny(str(shards / "train"), str(model), holdout_dir=str(shards / "holdout"))
    return model, train_embedder(spec)


def test_a_spec_survives_json():
    spec = recipes.starter("shards", "out")
    assert read_spec(TrainEmbedderSpec, json.loads(json.dumps(asdict(spec)))) == spec


def test_the_tiny_recipe_learns_institutions_that_it_can_search(trained):
    rows = [row for row in trained[1].holdout if row["kind"] == "institution"]
    assert {row["query"] for row in rows} == {"street", "zoo", "museum"}
    for row in rows:
        assert row["chance"] == pytest.approx(1 / 3, abs=1e-4)
        assert row["precision_at_10"] > 0.9


def test_a_trained_folder_holds_the_model_its_card_and_few_tokens(trained):
    folder, report = trained
    card = json.loads((folder / "card.json").read_text())
    assert card["data"]["num_scenes"] == 72
    assert card["holdout"] == report.holdout
    assert report.size_bytes == sum(path.stat().st_size for path in folder.iterdir()) < 300_000


def test_training_twice_gives_the_same_model(trained, shards, tmp_path):
    spec = recipes.tiny(str(shards / "train"), str(tmp_path / "a"))
    short = replace(spec, num_steps=3)
    again = train_embedder(replace(short, output_dir=str(tmp_path / "b")))
    assert train_embedder(short).model_id == again.model_id != trained[1].model_id


def test_words_that_training_never_saw_share_one_vector(trained):
    model = EmbedModel.load(str(trained[0]))
    one, other, seen = model.embed_texts(["zoo dog", "zoo cat", "zoo museum"])
    assert np.allclose(one, other, atol=1e-6)
    assert not np.allclose(one, seen, atol=1e-3)


def test_the_starter_recipe_fits_the_repository():
    from gpu_jobs.embed_clips.model import build_network

    spec = recipes.starter("shards", "out")
    network, _ = build_network(spec.model_cfg)
    sizes = {"image": 0, "text": 0}
    for name, weight in network.state_dict().items():
        if name != "token_embedding.weight":
            sizes["image" if name.startswith("visual.") else "text"] += weight.numel() * 2
    assert sizes["image"] < 4_500_000
    assert sum(sizes.values()) < 7_000_000


def test_precision_counts_the_nearest():
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    relevant = np.array([True, False, True])
    assert precision_at(vectors, np.array([1, 0], np.float32), relevant, 2) == 0.5


def test_distances_tell_twins_from_neighbours(trained, shards):
    found = distances(EmbedModel.load(str(trained[0])), read_shards(shards / "holdout"))
    assert list(found) == [f"{k}_p{p}" for k in ("twin", "neighbour") for p in (1, 50, 99)]
    assert 0 <= found["twin_p1"] <= found["twin_p50"] <= found["twin_p99"]


def test_rare_answers_are_not_asked_for(trained, shards):
    rows = evaluate(EmbedModel.load(str(trained[0])), read_shards(shards / "holdout"))
    assert all(row["num_relevant"] >= 10 for row in rows)
    assert "| **institution** | mean of 3 |" in format_rows(rows)


def test_no_shards_is_one_clear_error(tmp_path):
    with pytest.raises(JobFailedError, match="No frame shards"):
        train_embedder(recipes.tiny(str(tmp_path), str(tmp_path)))


def test_a_broken_shard_is_one_clear_error(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(MalformedRecordError, match=r"frame shard a\.npz"):
        read_shards(tmp_path)
