import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.scenes.casting import cast_scenes
from worldloop.scenes.people import OUTERWEAR, PUBLIC_ROLES, dressed_for, lighter
from worldloop.scenes.scene import Dress

ATLAS = load_atlas()
INDOORS = ("library", "mall", "museum", "university", "airport")


def worn(city, kinds, num=60):
    """Tops of the public by season."""
    places = [f"{city}/{kind}" for kind in kinds] * num
    made = cast_scenes(ATLAS, places, range(len(places)))
    return {
        (scene.season, role.dress.top)
        for scene in made
        for role in scene.roles
        if role.name in PUBLIC_ROLES
    }


@pytest.mark.parametrize(
    ("city", "season", "warmth"),
    [
        ("khartoum", "winter", "hot"),
        ("niamey", "dry season", "hot"),
        ("jeddah", "winter", "warm"),
        ("jeddah", "spring", "hot"),
        ("lima", "winter", "cool"),
        ("cairo", "winter", "cool"),
        ("london", "winter", "cold"),
        ("nairobi", "dry season", "warm"),
    ],
)
def test_the_public_dresses_for_the_climate(city, season, warmth):
    assert dressed_for(ATLAS.city(city), season) == warmth


@pytest.mark.parametrize("city", ["khartoum", "mumbai", "manila", "niamey"])
def test_nobody_of_the_public_wears_a_jacket_in_a_tropical_city(city):
    tops = {top for _, top in worn(city, (*INDOORS, "park", "street", "market"))}
    assert tops
    assert tops.isdisjoint(OUTERWEAR)


def test_jackets_are_worn_where_and_when_it_is_cool():
    assert ("winter", "jacket") in worn("lima", ("park",))
    assert ("winter", "coat") in worn("london", ("park",))
    assert any(top == "jacket" for season, top in worn("london", INDOORS) if season == "winter")


def test_who_has_nothing_lighter_keeps_the_jacket():
    wardrobe = {"visitor": (Dress("jacket"),), "guard": (Dress("jacket"), Dress("shirt"))}
    assert lighter(wardrobe) == wardrobe
