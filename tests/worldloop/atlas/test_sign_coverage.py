from dataclasses import replace

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.sign_coverage import coverage_lines, word_coverage

ATLAS = load_atlas()
COVERAGE = {row.word: row for row in word_coverage(ATLAS)}
BARRED = {"shinto_shrine"}  # the Arabic name is a mausoleum


def test_every_city_is_counted_once():
    for row in COVERAGE.values():
        assert sum(row.first.values()) + row.second + row.english == len(ATLAS.cities)
        assert sum(cities for _, cities in row.lacking) == row.second + row.english


@pytest.mark.parametrize("word", COVERAGE)
def test_a_word_that_cldr_carries_stands_in_the_first_language_of_95_in_100_cities(word):
    row = COVERAGE[word]
    by_cldr_alone = row.first.get("cldr", 0) > len(ATLAS.cities) / 2
    assert not by_cldr_alone or word in BARRED or row.share >= 0.95


def test_what_stands_in_for_a_missing_word_is_the_next_language_and_then_english():
    city = replace(ATLAS.city("cairo"), languages=("tlh", "ar"))
    other = replace(city, key="b", languages=("tlh", "en-GB"))
    atlas = replace(ATLAS, cities={"a": city, "b": other})
    row = next(row for row in word_coverage(atlas) if row.word == "hospital")
    assert (row.first, row.second, row.english, row.lacking) == ({}, 1, 1, (("tlh", 2),))
    assert row.share == 0


def test_the_table_has_a_line_a_word_the_least_covered_last():
    lines = list(coverage_lines(ATLAS))
    assert len(lines) == 1 + len(ATLAS.words)
    assert "science_centre" in " ".join(lines[-3:])
