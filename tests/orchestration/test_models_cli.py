import shlex

import pytest
from click.testing import CliRunner

from orchestration.cli import main
from orchestration.models import download_all, folders_to_download, write_tiny
from resources.model_hub import ModelHub
from worldloop.errors import MalformedRecordError, UnknownKeyError

SEVEN = "Cosmos-1.0-Diffusion-7B-Text2World"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path))
    monkeypatch.delenv("WORLDLOOP_CHECKPOINTS", raising=False)
    return tmp_path


def worldloop(words):
    return CliRunner().invoke(main, shlex.split(words))


def test_the_list_names_models_and_what_is_here(folder):
    (folder / "checkpoints" / SEVEN).mkdir(parents=True)
    answer = worldloop("models list --family cosmos1")

    lines = {line.split()[0]: line for line in answer.output.splitlines()[1:]}
    assert lines[SEVEN].split()[-1] == "incomplete"
    assert lines["Cosmos-1.0-Diffusion-14B-Text2World"].split()[-1] == "-"
    assert "Cosmos3-Nano" not in answer.output


def test_the_guides_download_command_brings_its_folders():
    answer = worldloop(
        "models download --model_sizes 7B 14B --model_types Text2World Video2World "
        "--checkpoint_dir checkpoints --dry-run"
    )

    assert answer.exit_code == 0, answer.output
    names = [line.split(":")[0] for line in answer.output.splitlines()]
    assert names[:2] == [SEVEN, "Cosmos-1.0-Diffusion-14B-Text2World"]
    assert {"Cosmos-1.0-Tokenizer-CV8x8x8", "Cosmos-1.0-Guardrail", "Pixtral-12B"} <= set(names)
    assert "to be accepted on https://huggingface.co/nvidia/Cosmos-1.0-Guardrail" in answer.output


def test_the_predict2_download_command_brings_its_models():
    answer = worldloop("models download --model_sizes 2B 14B --model_types Video2World --dry-run")

    assert "nvidia/Cosmos-Predict2-2B-Video2World at f50c09f5d8ab" in answer.output


def test_only_guardrails_can_be_asked_for():
    assert folders_to_download((SEVEN,), guardrail_only=True) == (
        "Cosmos-1.0-Guardrail",
        "meta-llama/LlamaGuard-7b",
        "nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0",
        "google/siglip-so400m-patch14-384",
    )


def test_the_command_of_the_guards_errors_brings_the_guards_of_every_family():
    answer = worldloop("models download --guardrail --dry-run")

    for name in ("Cosmos-1.0-Guardrail", "Cosmos-Guardrail1", "meta-llama/Llama-Guard-3-8B"):
        assert name in answer.output
    assert "Together about" in answer.output


def test_an_unknown_family_is_refused():
    answer = worldloop("models list --family predict3")

    assert answer.exit_code == 1
    assert "No family of world models has the key 'predict3'" in answer.output


def test_a_companion_can_be_named_alone():
    assert folders_to_download(("google-t5/t5-11b",)) == ("google-t5/t5-11b",)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("Tiny-Cosmos3",), MalformedRecordError, "worldloop models tiny Tiny-Cosmos3"),
        (("Cosmos3-Mano",), UnknownKeyError, "Cosmos3-Nano"),
    ],
)
def test_what_cannot_be_downloaded_is_refused(names, error, words):
    with pytest.raises(error, match=words):
        folders_to_download(names)


def test_one_refused_folder_does_not_stop_the_rest(folder):
    hub = ModelHub(checkpoint_dir=str(folder), endpoint="http://127.0.0.1:9", token="hf_x")

    done, failed = download_all(hub, (SEVEN, "Cosmos-1.0-Guardrail"))
    assert done == []
    assert [name for name, _ in failed] == [SEVEN, "Cosmos-1.0-Guardrail"]


def test_a_hub_that_is_not_there_ends_with_one_message_a_folder():
    answer = worldloop(
        f"models download {SEVEN} --no-guardrail --no-upsampler --layout diffusers --endpoint http://127.0.0.1:9"
    )

    assert answer.exit_code == 1
    assert (
        "The hub cannot be reached for nvidia/Cosmos-1.0-Diffusion-7B-Text2World" in answer.output
    )


def test_verify_says_what_is_missing():
    assert "/checkpoints yet. See `worldloop models download" in worldloop("models verify").output
    answer = worldloop(f"models verify {SEVEN}")
    assert answer.exit_code == 1
    assert f"Run: worldloop models download {SEVEN}" in answer.output


def test_a_tiny_model_is_written_and_is_whole(folder):
    answer = worldloop("models tiny Tiny-Cosmos-Predict2-Text2Image")

    assert answer.exit_code == 0, answer.output
    assert (
        folder / "checkpoints" / "Tiny-Cosmos-Predict2-Text2Image" / "model_index.json"
    ).exists()
    assert worldloop("models verify Tiny-Cosmos-Predict2-Text2Image").exit_code == 0


def test_only_tiny_models_are_written(folder):
    with pytest.raises(MalformedRecordError, match=f"worldloop models download {SEVEN}"):
        write_tiny(SEVEN, folder)
