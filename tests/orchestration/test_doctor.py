from itertools import pairwise

import pytest
from click.testing import CliRunner

from orchestration import doctor
from orchestration.cli import main
from orchestration.doctor import by_model, examine_cosmos, gpu_asked, tiny_models, world_models

SEVEN = "Cosmos-1.0-Diffusion-7B-Text2World"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("WORLDLOOP_HOME", str(tmp_path))
    monkeypatch.delenv("WORLDLOOP_CHECKPOINTS", raising=False)
    return tmp_path


def own(rows):
    return {row.model.name: row for row in rows if not row.tier}


def test_24_gb_run_7b_offloaded_and_not_14b():
    rows = own(world_models(gpu_asked(24)))

    assert rows[SEVEN].plan.chunked_decode
    assert "transformer" in rows[SEVEN].plan.offload
    assert not rows["Cosmos-1.0-Diffusion-14B-Text2World"].runs
    assert rows["Cosmos-Predict2-2B-Video2World"].runs
    assert rows["Cosmos3-Edge"].runs


def test_80_gb_run_14b_and_141_gb_run_super():
    rows_80, rows_141 = own(world_models(gpu_asked(80))), own(world_models(gpu_asked(141)))

    assert rows_80["Cosmos-1.0-Diffusion-14B-Text2World"].runs
    assert not rows_80["Cosmos3-Super"].runs
    assert rows_141["Cosmos3-Super"].runs
    assert not rows_141[SEVEN].seconds["exact"].estimated


@pytest.mark.parametrize("memory_gb", [24, 48, 80, 141, 180])
def test_what_runs_has_a_time_for_each_profile(memory_gb):
    for row in world_models(gpu_asked(memory_gb)):
        assert bool(row.seconds) == row.runs
        assert all(time.total_s > 0 for time in row.seconds.values())


def test_more_memory_runs_no_less():
    runs = [
        {row.model.name for row in world_models(gpu_asked(gb)) if row.runs}
        for gb in (8, 24, 80, 141)
    ]

    assert all(less <= more for less, more in pairwise(runs))


def test_without_a_gpu_only_tiny_models_are_left():
    answer = CliRunner().invoke(main, ["doctor", "--gpu-gb", "0"])

    assert world_models(None) == ()
    assert all(one.name in answer.output for one in tiny_models())
    assert SEVEN not in answer.output


def test_another_card_can_be_asked_for():
    answer = CliRunner().invoke(main, ["doctor", "--gpu-gb", "24"])

    line = next(line for line in answer.output.splitlines() if line.lstrip().startswith(SEVEN))
    assert "decode in chunks" in line
    assert "121x704x1280" in line
    assert "scaled by peak bf16" in answer.output
    assert "s*" not in line  # all that are shown have passed their gates
    needs = next(line for line in answer.output.splitlines() if "a GPU of 40 GB" in line)
    assert "Cosmos-1.0-Diffusion-14B-Text2World" in needs


def test_a_profile_that_failed_its_gate_is_marked(monkeypatch):
    monkeypatch.setattr(doctor, "refused_profiles", lambda _: {"thrifty"})
    answer = CliRunner().invoke(main, ["doctor", "--gpu-gb", "24"])

    line = next(line for line in answer.output.splitlines() if line.lstrip().startswith(SEVEN))
    assert line.count("s*") == 1
    assert "* This profile failed its quality gate" in answer.output


def test_every_tier_of_a_model_stands_in_its_row():
    looks = by_model(world_models(gpu_asked(80)))["Cosmos-Predict2-2B-Video2World"]

    assert list(looks) == ["", "draft", "standard", "hero"]
    assert looks["draft"].seconds["fast"].total_s < looks["hero"].seconds["fast"].total_s


def test_weights_that_are_here_are_marked(folder):
    (folder / "checkpoints" / SEVEN).mkdir(parents=True)
    answer = CliRunner().invoke(
        main, ["doctor", "--gpu-gb", "80", "--checkpoint_dir", str(folder / "checkpoints")]
    )

    line = next(line for line in answer.output.splitlines() if line.lstrip().startswith(SEVEN))
    assert line.split()[1] == "here"


def test_folders_that_are_here_are_found(folder):
    for name in (SEVEN, "Cosmos-1.0-Guardrail"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    models, guardrail, upsamplers = examine_cosmos(folder / "checkpoints")

    assert (models.found, models.state) == (SEVEN, "ok")
    assert guardrail.found == "Cosmos-1.0-Guardrail"
    assert upsamplers.state == "optional"
    assert "--disable_prompt_upsampler" in upsamplers.remedy
