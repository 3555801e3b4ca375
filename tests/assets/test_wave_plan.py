"""What a person asks of a wave reaches its plan."""

import shutil
from collections import Counter

import dagster as dg
import polars as pl
import pytest

from assets.wave_plan import WavePlanConfig
from resources.site_catalog import project_wave
from resources.site_store import SiteStore
from resources.wave_plans import read_plan
from tests import rows
from tests.conftest import House
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.errors import MalformedRecordError, UnreachableError
from worldloop.scenes.casting import CASTABLE

# leaves tokyo/museum and lima/hospital, the places of the wave that was carried
TWO_PLACES = {f"{city}/*": 0.0 for city in load_atlas().cities if city not in ("tokyo", "lima")}
TWO_PLACES |= {f"*/{kind}": 0.0 for kind in CASTABLE if kind not in ("museum", "hospital")}
TWO_PLACES |= {"tokyo/hospital": 0.0, "lima/museum": 0.0}
WEIGHED = {"num_cities": 1, "weights": TWO_PLACES, "weigh_by_acceptance": True}


@pytest.fixture
def released(carried, tmp_path):
    """A copy of a house with a released wave, two accepted clips a place, that a test may change."""
    shutil.copytree(carried.root, tmp_path, dirs_exist_ok=True)
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path, instance)


def lose(house, city, num=2):
    """Late arrivals turn out to be what clips of a city show already."""
    log = house.resources["site_log"]
    lost = log.read("lineage").filter(pl.col("city") == city)["recipe_id"].head(num)
    found = {"superseded_by": pl.lit("f" * 32), "kind": pl.lit("semantic")}
    log.append("superseded", pl.DataFrame(lost).with_columns(**found, similarity=pl.lit(0.99)))


def metadata(house):
    event = house.instance.get_latest_materialization_event(dg.AssetKey("wave_plan"))
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def plan(house, wave, **config):
    house.instance.add_dynamic_partitions("wave", [wave])
    house.execute("plan_job", wave, {"ops": {"wave_plan": {"config": config}}})
    return read_plan(house.store, wave)


def test_a_wave_without_places_covers_what_earlier_waves_did_not(house):
    first = plan(house, "w0001", num_cities=3, clips_per_place=2)
    second = plan(house, "w0002", num_cities=3, clips_per_place=1)

    assert len(first.clips) == 6
    assert all(clip.asked["camera"] in ("stroll", "tour", "wander") for clip in first.clips)
    assert set(first.cities).isdisjoint(second.cities)


def test_targets_mix_and_weights_reach_the_plan(house):
    asked = {
        "targets": {"tokyo/zoo": 2, "lima/museum": 2},
        "mix": {"nature": 0.5, "navigation": 0.5},
    }
    made = plan(house, "w0001", **asked)

    assert Counter(clip.place for clip in made.clips) == {"tokyo/zoo": 2, "lima/museum": 2}
    assert {clip.asked["category"] for clip in made.clips} <= {"nature", "navigation"}


def test_what_every_scene_should_have_is_asked_of_each_clip(house):
    made = plan(house, "w0001", places=["oslo/street"], asked={"season": "winter"})

    assert [clip.asked for clip in made.clips] == [{"season": "winter"}] * 3


def test_places_leave_nothing_to_pick(house):
    with pytest.raises(MalformedRecordError, match="places together with mix"):
        plan(house, "w0001", places=["oslo/street"], mix={"nature": 1.0})


def test_targets_are_counted_in_the_estimate():
    alone = WavePlanConfig(places=["tokyo/zoo"], clips_per_place=6).estimate(1.0)
    assert WavePlanConfig(targets={"tokyo/zoo": 4, "lima/zoo": 2}).estimate(1.0) == alone


@pytest.mark.parametrize(("city", "place"), [("tokyo", "tokyo/museum"), ("lima", "lima/hospital")])
def test_a_place_that_lost_clips_is_picked_first_and_the_metadata_says_why(released, city, place):
    lose(released, city)

    made = plan(released, "w0002", **WEIGHED)

    assert {clip.place for clip in made.clips} == {place}
    assert made.accept_counts == {place: (0, 2)}
    shown = metadata(released)
    assert shown["num_weighed_up"] == 1
    assert f"| {place} | 0 | 2 | 0% | x 4.00 |" in shown["weighed_up"]


def test_the_heaviest_place_is_shown_first(released):
    lose(released, "tokyo", num=1)
    lose(released, "lima")

    plan(released, "w0002", **WEIGHED)

    places = [line.split(" | ")[0] for line in metadata(released)["weighed_up"].splitlines()[2:]]
    assert places == ["| lima/hospital", "| tokyo/museum"]


def test_what_is_lost_later_does_not_change_a_plan_and_a_rerun_gives_the_same(released):
    lose(released, "lima")
    first = plan(released, "w0002", **WEIGHED)
    content = released.store.get(layout.plan_key("w0002"))
    lose(released, "tokyo")

    assert plan(released, "w0002", **WEIGHED) == first
    assert released.store.get(layout.plan_key("w0002")) == content
    assert "lima/hospital" in metadata(released)["weighed_up"]
    assert set(plan(released, "w0003", **WEIGHED).accept_counts) == {
        "lima/hospital",
        "tokyo/museum",
    }


def test_where_nothing_was_lost_the_plan_has_the_bytes_that_it_has_without(released, house):
    plan(released, "w0002", num_cities=3, weigh_by_acceptance=True)
    assert "weighed_up" not in metadata(released)
    weighed = released.store.get(layout.plan_key("w0002"))

    house.store.put(layout.plan_key("w0001"), released.store.get(layout.plan_key("w0001")))
    plan(house, "w0002", num_cities=3)
    assert house.store.get(layout.plan_key("w0002")) == weighed


def test_clips_of_waves_without_a_release_and_of_later_ones_do_not_count(released):
    lose(released, "tokyo")
    unreleased = rows.wave_tables(range(5), wave="w0002", city="oslo", rejected=tuple(range(5)))
    project_wave(site_log=released.resources["site_log"], **unreleased)

    assert plan(released, "w0000", weigh_by_acceptance=True).accept_counts == {}
    assert set(plan(released, "w0003", weigh_by_acceptance=True).accept_counts) == {"tokyo/museum"}


def test_clips_of_a_site_that_does_not_answer_are_not_counted(tmp_path, monkeypatch):
    (tmp_path / "sites.toml").write_text(
        '[sites.local]\ncities = ["tokyo"]\nstore = "site"\n'
        '[sites.gcp]\ncities = ["*"]\nstore = "gcp"\n'
    )
    scan = SiteStore.scan

    def without_gcp(self, *args, **kwargs):
        if self.url.endswith("gcp"):
            raise UnreachableError(f"{self.url!r} does not answer.")
        return scan(self, *args, **kwargs)

    with dg.DagsterInstance.ephemeral() as instance:
        house = House(tmp_path, instance)
        federation = house.resources["federation"]
        house.resources["store"] = federation.federated_store()
        house.resources["site_log"] = log = federation.federated_log()
        for city in ("tokyo", "lima"):
            project_wave(site_log=log, **rows.wave_tables(range(3), rejected=(2,), city=city))
        house.store.put(layout.release_key("w0001"), b"{}")

        everybody = plan(house, "w0002", weigh_by_acceptance=True)
        monkeypatch.setattr(SiteStore, "scan", without_gcp)
        those_there = plan(house, "w0003", weigh_by_acceptance=True)

    assert everybody.accept_counts == {"lima/zoo": (0, 1), "tokyo/zoo": (0, 1)}
    assert those_there.accept_counts == {"tokyo/zoo": (0, 1)}


@pytest.mark.parametrize(
    "named", [{"places": ["oslo/zoo"]}, {"scenes": ["oslo/zoo@1"]}, {"targets": {"oslo/zoo": 1}}]
)
def test_acceptance_has_nothing_to_weigh_where_places_are_named(house, named):
    message = f"{next(iter(named))} together with weigh_by_acceptance"
    with pytest.raises(MalformedRecordError, match=message):
        plan(house, "w0001", **named, weigh_by_acceptance=True)
