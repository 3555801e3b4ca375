import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest

from gpu_jobs.common.entry import read_spec
from gpu_jobs.embed_clips.job import embed_clips
from gpu_jobs.embed_clips.model import EmbedModel, build_network, save_starter, to_model_pixels
from gpu_jobs.embed_clips.spec import EmbedClipsSpec
from gpu_jobs.train_embedder import recipes
from tests.worldloop.curation.clips import canvas, encode, pan
from worldloop.errors import JobFailedError, MalformedRecordError


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model with random weights."""
    import torch

    spec = recipes.tiny("", "")
    torch.manual_seed(0)
    network, tokenize = build_network(spec.model_cfg)
    folder = tmp_path_factory.mktemp("tiny")
    config = {
        "name": "tiny",
        "model_cfg": spec.model_cfg,
        "preprocess_cfg": spec.preprocess_cfg,
    }
    seen = tokenize(["a rainy street", "zoo"]).unique()
    save_starter(folder, network, config, seen_tokens=seen, unknown_token=7, card={})
    return folder


@pytest.fixture
def spec(model_dir, tmp_path):
    """Three clips of one pack, the last one a copy of the first in another quality."""
    videos = [
        encode(pan(canvas(1, hue=(1, 0.2, 0.2)), num_frames=10)),
        encode(pan(canvas(2, hue=(0.1, 0.2, 1)), num_frames=10)),
        encode(pan(canvas(1, hue=(1, 0.2, 0.2)), num_frames=10), crf=30),
    ]
    pack, clips = b"head", []
    for name, video in zip("abc", videos, strict=True):
        clips.append(
            {
                "recipe_id": name,
                "path": str(tmp_path / "pack.tar"),
                "offset": len(pack),
                "size_bytes": len(video),
            }
        )
        pack += video
    (tmp_path / "pack.tar").write_bytes(pack)
    return EmbedClipsSpec(
        clips=tuple(clips), vectors_path=str(tmp_path / "out/v.parquet"), model=str(model_dir)
    )


def test_clips_become_unit_vectors_that_know_their_copies(spec):
    report = embed_clips(spec)
    table = pl.read_parquet(spec.vectors_path)
    vectors = np.array(table["vector"].to_list())
    assert table["recipe_id"].to_list() == ["a", "b", "c"]
    assert vectors.shape == (3, report.width) == (3, 16)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1]
    assert report.model_id.startswith("tiny-")
    assert report.failures == []


@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_batch_size_does_not_matter(spec, batch_size):
    embed_clips(spec)
    whole = np.array(pl.read_parquet(spec.vectors_path)["vector"].to_list())
    embed_clips(replace(spec, batch_size=batch_size))
    assert np.allclose(pl.read_parquet(spec.vectors_path)["vector"].to_list(), whole, atol=1e-5)


def test_a_broken_clip_is_a_row_in_failures(spec):
    broken = {**spec.clips[1], "size_bytes": 40}
    report = embed_clips(
        replace(spec, clips=(spec.clips[0], broken, spec.clips[2]), max_failed_share=0.5)
    )
    assert [row["recipe_id"] for row in report.failures] == ["b"]
    assert "an mp4 whose every frame decodes" in report.failures[0]["reason"]
    assert pl.read_parquet(spec.vectors_path)["recipe_id"].to_list() == ["a", "c"]


def test_too_many_broken_clips_end_the_job_without_a_file(spec, tmp_path):
    broken = tuple({**clip, "offset": 0} for clip in spec.clips)
    with pytest.raises(JobFailedError, match="3 of 3 clips could not be embedded"):
        embed_clips(replace(spec, clips=broken))
    assert not (tmp_path / "out").exists()


def test_texts_are_embedded_into_the_same_space(spec):
    report = embed_clips(replace(spec, clips=(), texts=("zoo", "a rainy street", "zoo")))
    texts = np.array(report.text_vectors)
    assert texts.shape == (3, 16)
    assert np.allclose(texts[0], texts[2])
    assert not np.allclose(texts[0], texts[1])


def test_a_model_id_names_the_weights(model_dir, tmp_path):
    model = EmbedModel.load(str(model_dir))
    changed = {**model.config, "name": "tiny"}
    model.network.logit_scale.data += 1
    seen = model.tokenize(["zoo"]).unique()
    save_starter(tmp_path, model.network, changed, seen_tokens=seen, unknown_token=7, card={})
    assert EmbedModel.load(str(model_dir)).model_id == model.model_id
    assert EmbedModel.load(str(tmp_path)).model_id != model.model_id


def test_a_hub_model_that_is_not_here_says_how_to_get_it(spec):
    hub = replace(spec, model="hf-hub:example-org/example-clip", revision="0" * 40)
    with pytest.raises(JobFailedError, match="hf download example-org/example-clip --revision 000"):
        embed_clips(hub)


def test_a_hub_model_in_the_cache_embeds_without_network(spec, tmp_path, monkeypatch):
    import huggingface_hub
    from safetensors.torch import save_model

    revision, recipe = "0" * 40, recipes.tiny("", "")
    snapshot = tmp_path / "cache/models--example-org--example-clip/snapshots" / revision
    snapshot.mkdir(parents=True)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": recipe.model_cfg, "preprocess_cfg": preprocess}
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    network, _ = build_network(recipe.model_cfg)
    save_model(network, str(snapshot / "open_clip_model.safetensors"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub = replace(spec, model="hf-hub:example-org/example-clip", revision=revision, texts=("zoo",))
    report = embed_clips(hub)
    assert report.model_id == f"example-org/example-clip@{revision}"
    assert (report.num_clips, report.width, len(report.text_vectors)) == (3, 16, 1)


def test_an_incomplete_folder_is_one_clear_error(tmp_path):
    with pytest.raises(JobFailedError, match=r"lacks open_clip_config\.json, image\.safetensors"):
        EmbedModel.load(str(tmp_path))


def test_weights_of_another_shape_are_one_clear_error(model_dir, tmp_path):
    for path in model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(MalformedRecordError, match="Train it again"):
        EmbedModel.load(str(tmp_path))


def test_a_hub_model_sees_the_middle_square():
    import torch

    frame = torch.zeros((1, 3, 90, 160), dtype=torch.uint8)
    frame[:, :, :, 35:125] = 255
    config = {"preprocess_cfg": {"size": 30, "mean": [0, 0, 0], "std": [1, 1, 1]}}
    pixels = to_model_pixels(frame, config)
    assert pixels.shape == (1, 3, 30, 30)
    assert float(pixels[..., 1:-1].min()) > 0.99


def test_the_job_runs_by_hand_as_a_program(spec, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(asdict(replace(spec, clips=spec.clips[:1], texts=("zoo",)))))
    done = subprocess.run(
        [sys.executable, "-m", "gpu_jobs.embed_clips.job", str(path)],
        capture_output=True,
        check=True,
        text=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["num_clips"], len(report["text_vectors"])) == (1, 1)


def test_a_spec_survives_json(spec):
    assert read_spec(EmbedClipsSpec, json.loads(json.dumps(asdict(spec)))) == spec
