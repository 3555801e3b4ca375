import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.errors import UnknownKeyError

ATLAS = load_atlas()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("TOKYO/ZOO", "tokyo/zoo"),
        ("Tokio/Zooo", "tokyo/zoo"),
        ("São Paulo/Zoo", "sao_paulo/zoo"),
        ("Hong-Kong/Train Station", "hong_kong/train_station"),
        ("Tokyo/zoo", "tokyo"),
        ("tokyo/ZOO", "zoo"),
        ("AL_QUDS/zoo", "al_quds"),
    ],
)
def test_a_name_is_understood_however_it_is_written(written, meant):
    with pytest.raises(UnknownKeyError) as caught:
        ATLAS.parse_place(written)
    assert f"Did you mean {meant!r}?" in str(caught.value)
    assert caught.value.near == meant


def test_the_keys_that_are_known_are_counted_and_listed_without_aliases():
    with pytest.raises(UnknownKeyError) as caught:
        ATLAS.city("qqqq")
    assert str(caught.value).endswith(f"({len(ATLAS.cities)} known)")
    assert caught.value.known == sorted(ATLAS.cities)
    assert not set(ATLAS.aliases["city"]) & set(caught.value.known)
    with pytest.raises(UnknownKeyError, match=rf"\({len(ATLAS.institutions)} known\)"):
        ATLAS.institution("qqqq")


def test_what_is_near_to_nothing_gets_no_suggestion():
    error = UnknownKeyError("city", "TOKYO", ["lima", "cairo"])
    assert error.near == ""
    assert str(error) == "No city has the key 'TOKYO'. Known: cairo, lima. (2 known)"


def test_where_nothing_is_known_that_is_said():
    assert str(UnknownKeyError("planned round", "r0001", [])) == (
        "No planned round has the key 'r0001'. There is none yet."
    )


def test_names_that_differ_in_capitals_alone_are_found_as_they_are_written():
    error = UnknownKeyError("world model", "tiny-cosmos3", ["Tiny-Cosmos3", "Tiny-Cosmos-1.0"])
    assert error.near == "Tiny-Cosmos3"
