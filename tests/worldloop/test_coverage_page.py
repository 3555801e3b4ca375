from html.parser import HTMLParser

import polars as pl

from worldloop.atlas.atlas import load_atlas
from worldloop.coverage_counts import count_places
from worldloop.coverage_page import coverage_page, emptiest_as_markdown

ATLAS = load_atlas()
NOTHING = pl.DataFrame(schema={"city": pl.String, "institution": pl.String, "accepted": pl.Boolean})
PLACES = count_places(ATLAS, NOTHING.drop("accepted"), NOTHING)
PAIRS = pl.DataFrame(
    [("season", "weather", 25, 5, 0.2)],
    schema=["first", "second", "num_valid", "num_covered", "share"],
    orient="row",
)


class _Addresses(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_asks_no_network_and_is_small():
    page = coverage_page(ATLAS, PLACES, PAIRS)
    parser = _Addresses()
    parser.feed(page)
    assert parser.found == []
    assert len(page) < 300_000


def test_the_page_shows_pictures_pairs_and_what_is_emptiest():
    page = coverage_page(ATLAS, PLACES, PAIRS)
    assert page.count("<svg ") == 2
    assert "<td>season<td>weather<td>25<td>5<td>20.0%" in page
    assert page == coverage_page(ATLAS, PLACES, PAIRS)


def test_the_emptiest_are_short_enough_to_be_shown_unfolded():
    for by in ("region", "institution", "country_name"):
        text = emptiest_as_markdown(PLACES, by)
        assert text.count("\n") == 7
        assert len(text) < 1000
