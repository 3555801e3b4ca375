import math
from pathlib import Path

import pytest

from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.sites import Budgets, Retraining, load_sites, parse_sites

SHIPPED = Path(__file__).parents[2] / "orchestration" / "sites.toml"
SITE = {"cities": ["*"], "store": "sites/local"}


def parse(**changes):
    return parse_sites({"sites": {"local": {**SITE, **changes}}})


def test_the_shipped_file_has_one_site_for_every_city():
    local = load_sites(SHIPPED).site("local")

    assert load_sites(SHIPPED).site_of("tokyo") == local
    assert local.max_disk_gb == 10
    assert local.budgets.limits()["gpu_s"] == 0


def test_a_city_is_at_home_where_it_is_named_before_the_site_that_takes_all():
    sites = parse_sites({"sites": {"local": SITE, "aws": {"cities": ["lima"], "store": "s3://b"}}})

    assert (sites.site_of("lima").name, sites.site_of("oslo").name) == ("aws", "local")


def test_a_city_without_a_home_and_a_site_without_a_name_are_errors():
    sites = parse(cities=["lima"])

    with pytest.raises(UnknownKeyError, match="'oslo'"):
        sites.site_of("oslo")
    with pytest.raises(UnknownKeyError, match="Did you mean 'local'"):
        sites.site("locale")


def test_what_is_not_named_has_its_default():
    site = parse().site("local")

    assert site.budgets == Budgets()
    assert (site.budgets.cpu_s, site.budgets.usd) == (math.inf, 0)
    assert site.generation.num_cities == 5


def test_a_site_says_whether_an_agent_carries_it():
    assert not parse().site("local").agent
    assert parse(agent=True).site("local").agent


def test_numbers_are_read():
    site = parse(max_disk_gb=2, budgets={"cpu_s": 60}, generation={"num_cities": 2}).site("local")

    assert (site.max_disk_gb, site.budgets.cpu_s, site.generation.num_cities) == (2.0, 60.0, 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"citys": []}, "sites.local"),
        ({"cities": "tokyo"}, "cities"),
        ({"cities": [1]}, "cities"),
        ({"store": ""}, "store"),
        ({"agent": "flower"}, "agent"),
        ({"agent": 1}, "agent"),
        ({"max_disk_gb": -1}, "max_disk_gb"),
        ({"max_disk_gb": "10 GB"}, "max_disk_gb"),
        ({"max_disk_gb": math.nan}, "max_disk_gb"),
        ({"budgets": {"gpu_hours": 1}}, "budgets"),
        ({"budgets": {"usd": True}}, "usd"),
        ({"budgets": 3}, "budgets"),
        ({"generation": {"num_cities": 0}}, "num_cities"),
        ({"generation": {"num_frames": 61.5}}, "num_frames"),
        ({"generation": {"num_cities": True}}, "num_cities"),
        ({"generation": {"mix": 0.5}}, "mix"),
        ({"generation": {"mix": {"nature": "half"}}}, "mix nature"),
        ({"generation": {"weights": {"tokyo/zoo": -1}}}, "weights tokyo/zoo"),
        ({"generation": {"targets": {"tokyo/zoo": 1.5}}}, "targets tokyo/zoo"),
        ({"generation": {"targets": {"tokyo/zoo": True}}}, "targets tokyo/zoo"),
        ({"generation": {"targets": ["tokyo/zoo"]}}, "targets"),
        ({"generation": {"weigh_by_acceptance": 1}}, "weigh_by_acceptance"),
    ],
)
def test_a_mistake_is_named_with_its_place(changes, named):
    with pytest.raises(MalformedRecordError, match=named):
        parse(**changes)


def test_what_generation_wishes_for_is_read():
    wishes = {"mix": {"nature": 3}, "weights": {"*/zoo": 0}, "weigh_by_acceptance": False}
    found = parse(generation=wishes).site("local").generation

    assert (found.mix, found.weights) == ({"nature": 3.0}, {"*/zoo": 0.0})
    assert not found.weigh_by_acceptance
    assert parse(generation={"targets": {"lima/zoo": 2}}).site("local").generation.targets == {
        "lima/zoo": 2
    }


FREELY = {"world_model": "Tiny-Cosmos3", "tier": "tiny"}


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"mix": {"natur": 1}}, r"generation mix: .*Did you mean 'nature'\?"),
        ({"mix": {"nature": 1, "driving": 1}}, r"generation mix: .*'driving'.*without sketches"),
        ({"weights": {"tokio/*": 2}}, r"generation weights: .*Did you mean 'tokyo'\?"),
        ({"weights": {"*/zooo": 2}}, r"generation weights: .*Did you mean 'zoo'\?"),
        ({"weights": {"tokyo": 2}}, r"generation weights: .*'tokyo/\*'"),
        ({"weights": {"*/*": 0}}, r"generation weights: .*some place with a weight"),
        ({"targets": {"tokyo/zooo": 2}}, r"generation targets: .*Did you mean 'zoo'\?"),
        ({"targets": {"tokyo/library": 2}}, r"generation targets: .*the sketch renderer draws"),
        ({"targets": {"lima/zoo": 1}, "weights": {"lima/zoo": 1}}, "none beside targets"),
        ({"targets": {"tokyo/zoo": 1}, "mix": {"driving": 1}, **FREELY}, "generation: .*driving"),
    ],
)
def test_a_wish_that_no_wave_could_be_planned_with_is_refused_in_its_table(generation, message):
    with pytest.raises(MalformedRecordError, match=message):
        parse(generation=generation)


def test_a_model_without_sketches_may_be_asked_for_what_no_sketch_shows():
    for wish in ({"targets": {"tokyo/library": 2}}, {"mix": {"driving": 1.0}}):
        found = parse(generation={**wish, **FREELY}).site("local").generation
        assert {"targets": found.targets, "mix": found.mix} == {"targets": {}, "mix": {}, **wish}


def test_a_city_with_two_homes_is_refused():
    with pytest.raises(MalformedRecordError, match=r"'\*'.*one site a city"):
        parse_sites({"sites": {"local": SITE, "aws": SITE}})


@pytest.mark.parametrize("text", ["", "sites = 1", "[site.local]", "[sites", "[sites]"])
def test_a_file_of_another_shape_is_refused(tmp_path, text):
    path = tmp_path / "sites.toml"
    path.write_text(text)

    with pytest.raises(MalformedRecordError, match=r"sites\.toml"):
        load_sites(path)
    with pytest.raises(MalformedRecordError, match="none"):
        load_sites(tmp_path / "none.toml")


TRAINED = {
    "model": "Tiny-Cosmos-Predict2-Video2World",
    "regeneration": {"tier": "tiny", "control": ["first_frames"]},
}


def parse_training(num_sites=3, **training):
    others = {f"site{k}": {"cities": [], "store": f"sites/{k}"} for k in range(num_sites - 1)}
    record = {"sites": {"local": {**SITE, "training": training}, **others}}
    return parse_sites(record).site("local").training


def test_without_a_model_nothing_is_trained_and_every_number_has_its_default():
    assert parse_training() == Retraining()
    assert load_sites(SHIPPED).site("local").training.model == ""


def test_tables_of_training_are_parts_of_a_round_s_plan():
    found = parse_training(
        **TRAINED,
        min_closed_gaps=4,
        training={"rank": 4, "conditioning_frames": [0, 1], "keep_optimizer": True},
        aggregation={"strategy": "diloco", "options": {"momentum": 0.9}},
        terms={"quorum": 3, "max_staleness": 1},
        trial={"limits": {"lineage_depth_max": 2}, "guidance": -1},
    )

    assert (found.training.rank, found.training.conditioning_frames) == (4, (0, 1))
    assert found.training.keep_optimizer
    assert found.aggregation.options == {"momentum": 0.9}
    assert (found.terms.quorum, found.terms.max_staleness, found.min_closed_gaps) == (3, 1, 4)
    assert (found.trial.limits, found.trial.sample_steps) == ({"lineage_depth_max": 2.0}, 0)


def test_the_shape_that_is_trained_on_is_that_of_the_model_s_drafts_unless_it_is_named():
    shape = {"num_frames": 5, "width_px": 32, "height_px": 32, "rate_fps": 8}

    assert parse_training(**TRAINED).training.shape.num_frames == 9
    assert parse_training(**TRAINED, training={"shape": shape}).training.shape.num_frames == 5


@pytest.mark.parametrize(
    ("generation", "named"),
    [
        ({"world_model": "any", "adapter": "r0001"}, "'promoted', or nothing"),
        ({"adapter": "promoted"}, "a world_model beside it"),
    ],
)
def test_an_adapter_that_no_wave_could_be_made_with_is_refused(generation, named):
    with pytest.raises(MalformedRecordError, match=named):
        parse_sites({"sites": {"local": {**SITE, "generation": generation}}})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"modle": "x"}, "only model"),
        ({"model": "nope"}, "world model"),
        ({"min_new_hours": 0}, "min_new_hours, min_closed_gaps or max_drift"),
        ({"min_new_hours": "one"}, "min_new_hours: found 'one'"),
        ({"held_out_share": 1.5}, "held_out_share: found 1.5"),
        ({"shadow_share": 1.5}, "shadow_share: found 1.5"),
        ({"min_pairs": 4}, "min_pairs: found 4, expected at least 5"),
        ({"gap_clips": 0}, "gap_clips"),
        ({"training": {"mode": "full"}}, "training mode"),
        ({"training": {"num_steps": 0}}, "num_steps"),
        ({"training": {"shape": {"width_px": 3}}}, "num_frames, width_px"),
        ({"aggregation": {"strategy": "median", "secure": True}}, "Turn secure off"),
        ({"aggregation": {"options": {"momentum": "high"}}}, "options momentum"),
        ({"aggregation": {"secure": 1}}, "true or false"),
        ({"terms": {"quorum": 9}}, "1 to 3, the number of sites"),
        ({"terms": {"deadline_s": -1}}, "zero or more"),
        ({"trial": []}, "trial"),
        ({"regeneration": {"tier": "huge"}}, "tier"),
        ({"regeneration": {"tier": "tiny"}}, "name a control"),
        ({"regeneration": {**TRAINED["regeneration"], "num_places": 0}}, "num_places"),
    ],
)
def test_training_that_no_round_could_carry_out_is_refused(changes, named):
    with pytest.raises(MalformedRecordError, match=named) as caught:
        parse_training(**{**TRAINED, **changes})

    assert "sites.toml" in str(caught.value)
