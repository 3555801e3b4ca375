"""A candidate that passed its gates: promoted at once, or tried as shadow first."""

import dagster as dg
import pytest

from assets.promoted_checkpoint import _put_to_use
from resources.checkpoint_lines import scored_clips
from resources.checkpoint_registry import CheckpointRegistry
from resources.site_store import SiteStore
from tests.assets.rounds import HOMES, MODEL, MadeUpRounds

LINE = MODEL.lower()


@pytest.fixture
def registry(tmp_path):
    """Three published rounds, of which the first is promoted."""
    made = CheckpointRegistry(store=SiteStore(url=str(tmp_path)), home=str(tmp_path))
    names = ("README.md", "evaluation.json", "pytorch_lora_weights.safetensors")
    for key in ("r0001", "r0002", "r0003"):
        made.publish(LINE, key, dict.fromkeys(names, b"{}"))
    _put_to_use(made, LINE, "r0001", 0.25)
    return made


def standing(registry):
    return registry.main(LINE), registry.shadow(LINE), len(registry.history(LINE))


def carry(house, key):
    """A whole round."""
    house.plan_round(key)
    for site in HOMES:
        house.train(site, key)
    house.execute("adapter_job", key)
    for site in HOMES:
        house.score(site, key)
    assert house.execute("verdict_job", key).success


def test_the_second_candidate_of_a_line_is_tried_and_its_page_says_so(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = MadeUpRounds(tmp_path, instance)
        sites = tmp_path / "sites.toml"
        sites.write_text(f"{sites.read_text()}\n[sites.local.training]\nshadow_share = 0.25\n")
        for number in (1, 2):
            house.film(f"w000{number}")
            carry(house, f"r000{number}")

        registry = house.resources["registry"]
        assert (registry.main(LINE), registry.shadow(LINE)) == ("r0001", "r0002")
        assert house.outcome("r0002").outcome == "promoted"
        assert "25% of the waves as shadow" in house.outcome("r0002").reason
        metadata = house.metadata("promoted_checkpoint")
        assert (metadata["is_main"], metadata["is_shadow"]) == (False, True)
        assert "| shadow | r0002 |" in metadata["in_use"]


def test_the_first_of_a_line_has_nothing_beside_which_it_could_be_tried(registry):
    assert standing(registry) == ("r0001", "", 1)


def test_without_a_share_a_candidate_is_promoted_at_once(registry):
    assert _put_to_use(registry, LINE, "r0002", 0.0) == "it passed every gate"
    assert standing(registry) == ("r0002", "", 2)


def test_a_run_that_was_killed_decides_nothing_anew(registry):
    words = _put_to_use(registry, LINE, "r0002", 0.25)
    assert _put_to_use(registry, LINE, "r0002", 0.25) == words
    assert standing(registry) == ("r0001", "r0002", 2)

    registry.withdraw_shadow(LINE, reason="worse")
    _put_to_use(registry, LINE, "r0002", 0.25)
    assert standing(registry) == ("r0001", "", 3)


def test_a_newer_candidate_takes_the_place_of_the_one_that_is_tried(registry):
    _put_to_use(registry, LINE, "r0002", 0.25)
    _put_to_use(registry, LINE, "r0003", 0.25)

    assert standing(registry)[:2] == ("r0001", "r0003")
    assert [one.event for one in registry.history(LINE)][-2:] == ["withdrawn", "shadowed"]


@pytest.mark.slow
def test_what_a_wave_of_a_real_model_leaves_in_the_logs_can_be_compared(house):
    model = {"world_model": MODEL, "tier": "tiny", "allow_unguarded": True}
    house.plan("w0001", ["tokyo/museum"], num_frames=0, **model)
    house.carry("w0001", ["tokyo"])

    found = scored_clips(house.store, house.resources["site_log"], LINE)

    assert [(one.place, one.adapter) for one in found] == [("tokyo/museum", "")] * 2
    assert all({"accepted", "sharpness", "motion"} <= one.scores.keys() for one in found)
    assert all(0 <= value <= 1 for one in found for value in one.scores.values())
