"""The page of the coverage: map, heat picture, what is emptiest, and the numbers of every place."""

from collections.abc import Iterable
from html import escape

import polars as pl

from worldloop.atlas.atlas import Atlas
from worldloop.coverage_counts import emptiest
from worldloop.coverage_heat import WAITING_CELL, coverage_heat, heat_table
from worldloop.coverage_map import STEPS, coverage_map

MAP_TITLE = "Footage of the world"
HEAT_TITLE = "Footage by city and institution"
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 Helvetica, Arial, sans-serif }
body { max-width: 1000px; margin: 2rem auto; padding: 0 1rem }
svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 12px; margin: 1rem 0 }
td, th { padding: 1px 5px; text-align: right; font-weight: normal }
tbody th, td:first-child, th:first-child { text-align: left; white-space: nowrap }
.pairs td:nth-child(2), .pairs th:nth-child(2) { text-align: left }
.groups th, .pairs th { color: GrayText }
.heat { overflow: auto; max-height: 90vh }
.heat td, .heat th { padding: 1px 3px }
.heat td { min-width: 14px; border: 1px solid #8883 }
.heat thead th { position: sticky; top: 0; background: Canvas; z-index: 1; vertical-align: bottom }
.heat thead span { writing-mode: vertical-rl; transform: rotate(180deg) }
.heat tbody th { position: sticky; left: 0; background: Canvas }
.e { background: #8882 }
"""
_HEADS = {
    "koeppen": "climate (Köppen)",
    "num_covered": "with footage",
    "num_places": "places",
    "num_accepted": "accepted clips",
    "num_valid": "possible",
}


def coverage_page(atlas: Atlas, places: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """One HTML page that asks no network; its ground follows the reader's light or dark setting.

    Args:
        atlas: Where the cities lie.
        places: What `coverage_counts.count_places` gives.
        pairs: What `coverage_counts.pair_coverage` gives.
    """
    steps = "".join(
        f".s{k} {{ background: {c}; color: {'#fff' if k < 1 else '#111'} }}\n"
        for k, c in enumerate(STEPS)
    )
    steps += f".w {{ background: {WAITING_CELL}; color: #fff }}\n"
    return "\n".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Coverage</title>',
            f"<style>{_STYLE}{steps}</style>",
            coverage_map(atlas, places, title=MAP_TITLE),
            coverage_heat(places, title=HEAT_TITLE),
            "<h2>The emptiest</h2>",
            *(_table(emptiest(places, by)) for by in ("region", "institution", "koeppen")),
            "<h2>Pairs of values</h2>",
            "<p>Of the pairs that some scene can have, such as winter with rain, how many accepted "
            "footage shows.</p>",
            _table(
                pairs.with_columns(pl.col("share").map_elements("{:.1%}".format, pl.String)),
                kind="pairs",
            ),
            "<h2>Accepted clips of every place</h2>",
            "<p>0: planned, none accepted. Grey: not planned. Blank: no such place, as a harbour "
            "without water.</p>",
            f'<div class="heat">{heat_table(places)}</div>',
        )
    )


def emptiest_as_markdown(places: pl.DataFrame, by: str, *, most: int = 6) -> str:
    """The emptiest groups as a Markdown table short enough for Dagster to show unfolded."""
    lines = [f"| {by} | places with footage | accepted clips |", "|-|-|-|"]
    lines += [
        f"| {name} | {covered} of {num} | {accepted} |"
        for name, covered, num, accepted in emptiest(places, by, most=most).iter_rows()
    ]
    return "\n".join(lines)


def _table(frame: pl.DataFrame, *, kind: str = "groups") -> str:
    heads = (_HEADS.get(name, name.replace("_", " ")) for name in frame.columns)
    head = "".join(f"<th>{escape(name)}" for name in heads)
    return f'<table class="{kind}"><tr>{head}{"".join(_rows(frame))}</table>'


def _rows(frame: pl.DataFrame) -> Iterable[str]:
    for row in frame.iter_rows():
        cells = "".join(f"<td>{escape(str(value).replace('_', ' '))}" for value in row)
        yield f"<tr>{cells}"
