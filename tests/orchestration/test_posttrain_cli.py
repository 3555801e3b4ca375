import json
import pickle
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from orchestration import posttrain_cli
from orchestration.cli import main
from orchestration.job_runs import job_command
from orchestration.posttrain_cli import RECIPES, build_spec, posttrain
from tests.gpu_jobs.posttrain.folders import write_folder
from worldloop.errors import MalformedRecordError, UnknownKeyError

TINY = "Tiny-Cosmos-1.0-Text2World"
VIDEO2WORLD = "Cosmos-Predict1-7B-Video2World"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path))
    monkeypatch.delenv("WORLDLOOP_CHECKPOINTS", raising=False)
    monkeypatch.delenv("OUTPUT_ROOT", raising=False)
    write_folder(tmp_path / "data", {"a": "A red bus.", "b": "A zoo."}, num_frames=12)
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of checkpoints with the tiny model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_tiny_checkpoint(TINY, folder)
    return folder


@pytest.fixture
def here(tiny, monkeypatch):
    monkeypatch.setenv("WORLDLOOP_CHECKPOINTS", str(tiny))


def worldloop(words):
    return CliRunner().invoke(main, shlex.split(words))


def spec_of(words, num_gpus=1):
    params = posttrain.make_context("posttrain", shlex.split(f"--dataset_dir data {words}")).params
    return build_spec(params, num_gpus=num_gpus)


def test_a_model_alone_is_trained_in_its_own_shape_beside_the_data(folder):
    spec = spec_of(f"--model {VIDEO2WORLD}")

    assert spec["training"]["mode"] == "lora"
    assert spec["training"]["shape"]["num_frames"] == 121
    assert spec["footage_dir"] == str(folder / "data")
    assert spec["export"] == {
        "project": "posttraining",
        "group": "diffusion_video2world",
        "name": "data",
        "root": str(folder / "checkpoints"),
    }
    assert spec["output_dir"] == str(
        folder / "checkpoints/posttraining/diffusion_video2world/data/trained"
    )


def test_flags_are_the_dataset_settings_of_the_guides():
    words = (
        "--num_frames 9 --video_size 48 64 --sequence_interval 2 --start_frame_interval 1 --steps 7"
    )
    training = spec_of(f"--model {TINY} {words} --fps 12 --full")["training"]

    assert training["shape"] == {"num_frames": 9, "width_px": 64, "height_px": 48, "rate_fps": 12}
    assert (training["sequence_interval"], training["start_frame_interval"]) == (2, 1)
    assert (training["mode"], training["num_steps"]) == ("full", 7)


def test_another_rank_keeps_a_scale_of_one():
    assert spec_of(f"--model {TINY} --rank 32")["training"]["alpha"] == 32
    assert spec_of(f"--model {TINY} --rank 32 --alpha 16")["training"]["alpha"] == 16


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_gives_a_spec_that_json_carries(recipe):
    spec = spec_of(f"--recipe {recipe}", num_gpus=2)
    assert json.loads(json.dumps(spec)) == spec


def test_the_published_list_of_cosmos3_is_a_dataset_and_its_recipe_a_training(folder):
    shutil.rmtree(folder / "data" / "videos")
    (folder / "data" / "train").mkdir()
    (folder / "data" / "train" / "video_dataset_file.jsonl").write_text("")
    spec = spec_of("--recipe cosmos3_nano --cosine_steps 200 --ema_rate 0.05", num_gpus=2)

    assert spec["footage_dir"] == str(folder / "data")
    assert spec["export"]["name"] == "vision_sft_nano"
    training = spec["training"]
    assert (training["cosine_steps"], training["ema_rate"], training["batch_size"]) == (
        200,
        0.05,
        4,
    )


def test_the_guides_lora_recipe_is_theirs_and_flags_change_it():
    spec = spec_of("--recipe predict1_video2world_lora --steps 3", num_gpus=4)
    training = spec["training"]

    assert spec["model"] == VIDEO2WORLD
    assert spec["export"]["name"] == "video2world_7b_lora_example_cosmos_nemo_assets"
    assert (training["rank"], training["first_blocks"], training["batch_size"]) == (8, 28, 1)
    assert {name.rpartition("_")[2] for name in training["targets"]} == {"q", "v"}
    assert training["num_steps"] == 3
    assert spec_of("--recipe predict1_video2world_full", num_gpus=8)["training"]["batch_size"] == 8


def test_output_root_comes_from_the_environment_as_in_the_guides(folder, monkeypatch):
    monkeypatch.setenv("OUTPUT_ROOT", "elsewhere")
    assert spec_of(f"--model {TINY}")["export"]["root"] == str(folder / "elsewhere")


def test_several_gpus_run_under_torchrun():
    words = job_command("gpu_jobs.posttrain.job", Path("spec.json"), 4)[2:]
    assert words[0] == "torch.distributed.run"
    assert "--nproc_per_node=4" in words


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("", MalformedRecordError, "neither --model nor --recipe"),
        ("--model Tiny-Cosmos-9", UnknownKeyError, "Did you mean"),
        (f"--model {TINY} --dataset_dir nowhere", MalformedRecordError, "no such folder"),
        (f"--model {TINY} --dataset_dir .", MalformedRecordError, r"no folder videos/"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(words, error, said):
    with pytest.raises(error, match=said):
        spec_of(words)


def test_a_model_that_is_not_here_is_said_with_its_command():
    answer = worldloop(f"posttrain --dataset_dir data --model {TINY}")
    assert answer.exit_code == 1
    assert f"Run: worldloop models tiny {TINY}" in answer.output
    assert "Traceback" not in answer.output


def test_encodings_are_written_as_the_published_script_writes_them(here, folder):
    (folder / "data/metas/b.txt").unlink()
    words = f'embeddings --dataset_dir data --model {TINY} --prompt "A video of sks teal robot."'

    answer = worldloop(words)
    assert answer.output.splitlines()[-1].startswith(
        "2 encodings written, 0 stood already, 1 caption"
    )
    assert len(pickle.loads((folder / "data/t5_xxl/b.pickle").read_bytes())) == 1
    assert worldloop("embeddings --dataset_dir data --model Tiny-Cosmos-Predict2.5").exit_code == 1


def test_an_interrupted_training_says_how_to_go_on_and_does(here, folder, monkeypatch):
    words = "posttrain --dataset_dir data --recipe tiny --output_root out --name mine"
    with monkeypatch.context() as patched:
        patched.setattr(posttrain_cli._Bar, "_move", _interrupted_in_training)
        stopped = worldloop(words)
    done = worldloop(words)

    assert "run the same command again" in stopped.output
    assert "Interrupted at step" in stopped.output
    assert done.exit_code == 0, done.output
    assert "over 4 steps" in done.output
    checkpoints = folder / "out/posttraining/diffusion_text2world/mine/checkpoints"
    assert (checkpoints / "iter_000000004_model.pt").is_file()
    assert str(checkpoints) in done.output.replace("\n", "")
    assert (checkpoints.parent / "trained/adapter.safetensors").is_file()


def _interrupted_in_training(self, what, done, total):
    if what.startswith("training"):
        raise KeyboardInterrupt


def test_what_the_job_finds_wrong_is_the_error(here):
    answer = worldloop("posttrain --dataset_dir data --recipe tiny --num_frames 10")
    assert answer.exit_code == 1
    assert "Train with 9 or 17" in answer.output
    assert "posttrain.log" in answer.output
