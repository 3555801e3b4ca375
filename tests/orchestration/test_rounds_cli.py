"""`worldloop rounds` in a home whose rounds and releases are made up."""

import json

import pytest
from click.testing import CliRunner

from orchestration.cli import main
from resources.checkpoint_registry import CheckpointRegistry
from resources.round_files import end_round, publish_adapter, publish_round_plan
from tests.sensors.rounds import round_plan
from worldloop import layout
from worldloop.federation.outcomes import AdapterRecord, Outcome, Participation


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder."""
    folder = tmp_path / "home"
    monkeypatch.setenv("WORLDLOOP_HOME", str(folder))
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    for variable in ("WORLDLOOP_SITES", "WORLDLOOP_DEPLOYMENT", "WORLDLOOP_READ_ONLY"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def store(home):
    from orchestration.deployments import federation

    return federation().store("local")


def worldloop(*words):
    return CliRunner().invoke(main, ["rounds", *map(str, words)])


def test_without_a_round_the_next_command_is_named(home):
    answer = worldloop("list")

    assert answer.exit_code == 0
    assert "No round is planned yet. See `worldloop rounds plan --help`." in answer.output


def test_rounds_are_listed_with_their_phase(store):
    publish_round_plan(store, round_plan())
    publish_round_plan(store, round_plan("r0002"))
    store.put(layout.sent_key("r0002", "aws", "delta.bin"), b"delta")

    found = json.loads(worldloop("list", "--json").stdout)
    assert [one["round"] for one in found] == ["r0001", "r0002"]
    assert (found[1]["phase"], found[1]["deltas"]) == ("training", "1 of 3")
    assert "r0002" in worldloop("list").output


def test_a_round_is_shown_with_who_took_part_and_how_it_ended(store):
    from orchestration.deployments import federation

    publish_round_plan(store, round_plan())
    entries = (
        Participation("aws", "accepted", num_clips=3),
        Participation("gcp", "refused", "NaN"),
    )
    made = AdapterRecord("r0001", "id", "fedavg", "a", "b", "", 6, 0.5, entries, {})
    publish_adapter(store, made, {}, {})
    moment = "2026-01-02T00:00:00+00:00"
    ended = Outcome("r0001", "id", "refused", "the loss rose", moment, participation=entries)
    end_round(store, federation().log("local"), ended)

    shown = worldloop("show", "r0001").output
    assert "refused: the loss rose" in shown
    assert "gcp: refused, NaN" in shown
    assert "aws: accepted, 3 clips" in shown


def test_a_round_that_is_not_there_is_named_in_one_line(store):
    publish_round_plan(store, round_plan())
    answer = worldloop("show", "r0009")

    assert answer.exit_code == 1
    assert "No planned round has the key 'r0009'" in answer.output


def test_a_round_that_cannot_be_planned_leaves_no_partition(home):
    from orchestration.instance import open_instance

    answer = worldloop("plan", "--model", "Tiny-Cosmos-1.0-Text2World")

    assert answer.exit_code == 1
    assert "no released wave that is new" in answer.output
    with open_instance() as instance:
        assert instance.get_dynamic_partitions("round") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("delta",), "name it with --site"),
        (("adapter", "--site", "aws"), "leave --site out"),
        (("delta", "--site", "mars"), "No site of r0001 has the key 'mars'"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(store, words, said):
    publish_round_plan(store, round_plan())
    answer = worldloop("retry", "r0001", *words)

    assert answer.exit_code != 0
    assert said in answer.output


def test_a_step_that_fails_again_says_why(store):
    publish_round_plan(store, round_plan())
    store.put(layout.manifest_key("w0001"), _no_clips())
    answer = worldloop("retry", "r0001", "adapter")

    assert answer.exit_code == 1
    assert "0 of 3 deltas can be used, the quorum is 2" in answer.output


def test_a_checkpoint_is_taken_back_by_hand(store):
    plan, registry = round_plan(), CheckpointRegistry(store=store, home="")
    line = plan.base.model.lower()
    publish_round_plan(store, plan)
    names = ("README.md", "evaluation.json", "pytorch_lora_weights.safetensors")
    registry.publish(line, "r0001", dict.fromkeys(names, b"{}"))
    registry.promote(line, "r0001", reason="better")
    answer = worldloop("roll-back", "r0001", "--reason", "looks wrong")

    assert answer.exit_code == 0, answer.output
    assert registry.main(line) == ""
    assert worldloop("roll-back", "r0007", "--reason", "none").exit_code == 1


def _no_clips() -> bytes:
    from worldloop.records import MANIFEST, table_bytes

    return table_bytes(MANIFEST, MANIFEST.empty())
