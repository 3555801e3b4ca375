"""The picture of the coverage in the README: today's page in a browser, with counts drawn at random.

`python -m tests.campaigns.coverage_picture docs/images/coverage.png` needs `chromium` on PATH.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.coverage_counts import count_places, place_table
from worldloop.coverage_page import coverage_page

NUM_PLANNED = 3000
MADE_SHARE, ACCEPTED_SHARE = 0.9, 0.8
_CITY_SHAPE, _CITY_LEAST = 1.2, 0.05  # of a Pareto law: few cities have most of the footage
_KIND_SCALE = 5.0  # of an exponential law: the first institutions of the atlas have most of it
_PAIRS = pl.DataFrame(schema={"first": pl.String, "second": pl.String, "share": pl.Float64})


def drawn_counts(atlas: Atlas, *, seed: int) -> pl.DataFrame:
    """What `count_places` gives for clips drawn at random: some cities and institutions have many, some none."""
    rng = np.random.default_rng(seed)
    kinds = dict(
        place_table(atlas).group_by("city", maintain_order=True).agg("institution").iter_rows()
    )
    weights = rng.pareto(_CITY_SHAPE, len(kinds)) + _CITY_LEAST
    planned = []
    for city in rng.choice(list(kinds), NUM_PLANNED, p=weights / weights.sum()).tolist():
        row = min(int(rng.exponential(_KIND_SCALE)), len(kinds[city]) - 1)
        planned.append((city, kinds[city][row]))
    plans = pl.DataFrame(planned, schema=["city", "institution"], orient="row")
    made = plans.head(int(NUM_PLANNED * MADE_SHARE))
    accepted = pl.Series(rng.random(made.height) < ACCEPTED_SHARE)
    return count_places(atlas, plans, made.with_columns(accepted=accepted))


def shoot(page_path: Path, output: Path) -> None:
    """Write a PNG of the map and the heat picture as a browser shows them, 1,440 pixels wide."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": 1040, "height": 1200}, device_scale_factor=1.5, color_scheme="light"
        )
        page.goto(page_path.as_uri())
        boxes = [svg.bounding_box() for svg in page.locator("body > svg").all()[:2]]
        first, last = boxes[0], boxes[-1]
        assert first is not None
        assert last is not None
        clip = {**first, "height": last["y"] + last["height"] - first["y"]}
        page.screenshot(path=output, clip=clip, full_page=True)  # type: ignore[arg-type]
        browser.close()


def main() -> None:
    """Draw, show and shoot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    asked = parser.parse_args()
    atlas = load_atlas()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "index.html"
        page.write_text(coverage_page(atlas, drawn_counts(atlas, seed=asked.seed), _PAIRS))
        shoot(page, asked.output)


if __name__ == "__main__":
    main()
