"""Trees of a scene: those it names, else those of the climate, without leaves in cold winters."""

from dataclasses import replace

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.records import Species
from worldloop.scenes.casting import cast_scenes
from worldloop.scenes.scene import Detail
from worldloop.scenes.trees import TREES, kind_of_tree, trees_of

HALF = 1 << 31


def trees(city: str, *names: str):
    rows = [Species(name, "tree", ".*", (), (), "page:x", "curated") for name in names]
    return trees_of(load_atlas().city(city), rows)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("coconut palms", "palm"),
        ("royal palm trees", "palm"),
        ("Norway spruces", "conifer"),
        ("Mediterranean cypresses", "conifer"),
        ("yews", "conifer"),
        ("plane trees", "broadleaf"),
        ("pineapple guavas", "broadleaf"),
    ],
)
def test_a_tree_is_known_by_its_name(name: str, kind: str) -> None:
    assert kind_of_tree(name) == kind


def test_the_tree_that_a_scene_names_is_shown() -> None:
    shown = trees("lima", "stone pines").shown([Detail("plants", "stone pines")], "winter", HALF)
    assert shown == "conifer"


def test_broadleaf_trees_are_bare_in_cold_winters_unless_they_are_evergreen() -> None:
    here = trees("berlin", "lime trees", "holm oaks")
    assert here.shown([Detail("plants", "lime trees")], "winter", 0) == "bare"
    assert here.shown([Detail("plants", "lime trees")], "autumn", 0) == "broadleaf"
    assert here.shown([Detail("plants", "holm oaks")], "winter", 0) == "broadleaf"


def test_larches_shed_their_needles() -> None:
    here, shown = trees("oslo", "larches", "spruces"), [Detail("plants", "larches")]
    assert [here.shown(shown, season, 0) for season in ("summer", "winter")] == ["conifer", "bare"]
    assert here.shown([Detail("plants", "spruces")], "winter", 0) == "conifer"


@pytest.mark.parametrize(("climate", "kind"), [("Af", "palm"), ("BWh", "palm"), ("Dfd", "conifer")])
def test_the_climate_chooses_where_nothing_is_named(climate: str, kind: str) -> None:
    city = replace(load_atlas().city("lima"), koeppen=climate)
    assert trees_of(city, ()).shown([], "summer", 0) == kind


def test_scenes_with_trees_say_which() -> None:
    atlas = load_atlas()
    places = [f"{city}/{kind}" for city in list(atlas.cities)[::9] for kind in ("street", "zoo")]
    scenes = cast_scenes(atlas, places, range(len(places)))
    assert {scene.style["trees"] for scene in scenes} <= set(TREES)
    (museum,) = cast_scenes(atlas, ["lima/museum"], [1])
    assert "trees" not in museum.style
    for scene in scenes:
        assert scene.style["trees"] != "bare" or scene.season == "winter"


def test_a_street_has_the_centre_line_of_its_country() -> None:
    atlas = load_atlas()
    scenes = cast_scenes(atlas, ["new_york/street", "paris/street"] * 12, range(24))
    lines = {scene.city: scene.style["centre_line"].split()[-1] for scene in scenes}
    assert lines == {"new_york": "yellow", "paris": "white"}
