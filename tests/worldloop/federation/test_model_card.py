import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from safetensors.numpy import load

from gpu_jobs.posttrain.exports import peft_adapter
from tests.worldloop.federation.evaluations import evaluation, plan
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import initial_adapter, read_adapter
from worldloop.federation.evaluation import Evaluation
from worldloop.federation.gates import evaluate_gates
from worldloop.federation.model_card import LICENCES, checkpoint_files, model_card
from worldloop.federation.rounds import Base, Training, Trial

LAYERS = {"transformer_blocks.0.attn1.to_q": (32, 32), "transformer_blocks.0.ff.net.2": (32, 128)}
ADAPTER = initial_adapter(3, LAYERS, rank=8)


def written(of):
    found = evaluation(of)
    return found, evaluate_gates(found, {}, of)


def card(of):
    return model_card(of, *written(of))


def header(weights):
    """The metadata of a safetensors file."""
    return json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])["__metadata__"]


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def of_model(name):
    return plan(base=Base(name, "a" * 40))


def test_a_checkpoint_has_weights_settings_evaluation_and_a_card():
    of = plan()
    found, verdicts = written(of)
    files = checkpoint_files(of, ADAPTER, found, verdicts)
    assert sorted(files) == [
        "README.md", "adapter_config.json", "evaluation.json", "pytorch_lora_weights.safetensors"
    ]  # fmt: skip
    assert files == checkpoint_files(of, ADAPTER, found, verdicts)
    record = json.loads(files["evaluation.json"])
    assert [one["name"] for one in record.pop("verdicts")] == [one.name for one in verdicts]
    assert Evaluation.from_record(record) == found


def test_the_weights_are_the_adapter_under_diffusers_names():
    of = plan(training=replace(plan().training, alpha=16.0))
    weights = checkpoint_files(of, ADAPTER, *written(of))["pytorch_lora_weights.safetensors"]
    tensors = load(weights)
    assert {f"transformer.{name}" for name in ADAPTER} == tensors.keys()
    for name, tensor in ADAPTER.items():
        np.testing.assert_array_equal(tensors[f"transformer.{name}"], tensor)
    settings = json.loads(header(weights)["lora_adapter_metadata"])
    assert settings["transformer.lora_alpha"] == 16


def test_the_weights_are_what_a_trainer_exports():
    of = plan()
    published = checkpoint_files(of, ADAPTER, *written(of))["pytorch_lora_weights.safetensors"]
    exported = peft_adapter(ADAPTER, alpha=of.training.alpha)
    assert load(published).keys() == load(exported).keys()
    settings = [json.loads(header(one)["lora_adapter_metadata"]) for one in (published, exported)]
    assert settings[0] == settings[1]


def test_mode_full_publishes_the_difference_of_all_weights():
    of = plan(training=Training(plan().training.shape, mode="full"))
    change = {"proj_out.weight": np.ones((2, 2), np.float32)}
    files = checkpoint_files(of, change, *written(of))
    assert "adapter_config.json" not in files
    np.testing.assert_array_equal(
        read_adapter(files["delta.safetensors"])["proj_out.weight"], change["proj_out.weight"]
    )


@pytest.mark.parametrize(
    ("name", "base", "licence"),
    [
        ("Cosmos-1.0-Diffusion-7B-Text2World", "nvidia/Cosmos-1.0-Diffusion-7B-Text2World", "nvidia-open-model-license"),
        ("Cosmos3-Nano", "nvidia/Cosmos3-Nano", "openmdw-1.1"),
    ],
)  # fmt: skip
def test_the_front_matter_names_base_and_licence(name, base, licence):
    said = front_matter(card(of_model(name)))
    assert (said["base_model"], said["license"], said["license_name"]) == (base, "other", licence)
    assert said["license_link"].startswith("https://")
    assert said["library_name"] == "diffusers"
    assert {"cosmos", "lora", "r0002"} <= set(said["tags"])


def test_what_is_made_of_nvidias_models_says_what_its_licence_asks():
    text = card(of_model("Cosmos-1.0-Diffusion-7B-Text2World"))
    assert "Licensed by NVIDIA Corporation under the NVIDIA Open Model License." in text
    assert "Built on NVIDIA Cosmos." in text
    assert all(one.link.startswith("https://") for one in LICENCES.values())


def test_a_tiny_model_has_no_base_on_the_hub():
    said = front_matter(card(plan()))
    assert "base_model" not in said
    assert said["license"] == "apache-2.0"


def test_a_card_tells_sites_data_training_evaluation_and_gates():
    text = card(plan())
    for said in ("aws, azure, gcp", "11" * 32, "| learning rate | 0.0001 |", "lima, oslo",
                 "| text_cosine | starter-0 | 0.5 | 0.5 |", "lima/zoo", "| memorisation | passed |"):  # fmt: skip
        assert said in text


def test_a_card_has_no_prompt_path_or_reason():
    of = plan(
        trial=Trial(prompts=("A lion yawns.",), anchor_dir="/home/ana/real"),
        reason="lions were dull",
    )
    files = checkpoint_files(of, ADAPTER, *written(of))
    for name in ("README.md", "evaluation.json", "adapter_config.json"):
        for secret in ("lion", "/home", "anchor_dir"):
            assert secret not in files[name].decode()


def test_an_adapter_without_factors_is_refused():
    of = plan()
    with pytest.raises(MalformedRecordError, match="adapter to publish"):
        checkpoint_files(of, {}, *written(of))
