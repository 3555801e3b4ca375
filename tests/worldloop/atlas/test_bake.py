import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.bake import sign_case, sign_rows
from worldloop.atlas.csv_tables import DATA, read_rows, write_rows
from worldloop.errors import MalformedRecordError

ATLAS = load_atlas()
CURATED = read_rows(DATA / "inputs/curated_signs.csv")


def test_the_baked_cities_are_those_that_were_asked_for():
    wanted = [(row["key"], row["geonameid"]) for row in read_rows(DATA / "inputs/cities.csv")]
    assert [(city.key, city.geonameid) for city in ATLAS.cities.values()] == wanted


def test_curated_words_win_and_empty_ones_bar_the_packages():
    baked = {(sign.language, sign.word): sign.text for sign in ATLAS.signs}
    for row in CURATED:
        assert baked.get((row["language"], row["word"]), "") == row["text"]


def test_a_word_of_a_package_stands_where_nobody_curated_one():
    rows = list(sign_rows({"tag": "tlh"}, lambda package, key: f"{package} {key}"))
    assert {"language": "tlh", "word": "zoo", "text": "osm tourism/zoo", "source": "osm"} in rows


def test_labels_of_editors_become_words_of_signs():
    assert sign_case("wejście / wyjście") == "Wejście"
    assert sign_case("ქართული") == "ქართული"  # its capitals are another alphabet
    assert sign_case("ресторан, кафе") == "Ресторан"


def test_a_row_with_a_missing_cell_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1\n", encoding="utf-8")
    with pytest.raises(MalformedRecordError, match=r"t\.csv, row 2"):
        read_rows(tmp_path / "t.csv")


def test_tables_keep_commas_quotes_and_line_ends(tmp_path):
    rows = [{"a": 'x, "y"', "b": "ü"}]
    write_rows(tmp_path / "t.csv", ("a", "b"), rows)
    assert read_rows(tmp_path / "t.csv") == rows
    assert b"\r" not in (tmp_path / "t.csv").read_bytes()
