"""Bake the tables of cities, countries and holidays from what `data/inputs` asks for.

Run by hand:

    pip install "worldloop[atlas]" -c constraints.txt
    npm install --prefix DIR @rapideditor/country-coder@5.6.1 name-suggestion-index@8.0.20260918
    python -m worldloop.atlas.bake --npm-dir DIR

It writes `cities.csv`, `countries.csv` and `holidays.csv`; the same packages give the same bytes.
`bake_words.py` bakes the sign words. Nothing here runs when the atlas is used.
"""

import argparse
from pathlib import Path

from worldloop.atlas.bake_cities import CITY_COLUMNS, bake_cities
from worldloop.atlas.bake_countries import (
    COUNTRY_COLUMNS,
    HOLIDAY_COLUMNS,
    bake_countries,
    bake_holidays,
)
from worldloop.atlas.csv_tables import DATA, write_rows


def main() -> None:
    """Bake all three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm-dir", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--to", type=Path, default=DATA, help="folder to write to")
    arguments = parser.parse_args()
    bake(arguments.npm_dir, to=arguments.to)


def bake(npm_dir: Path, *, to: Path) -> None:
    """Write the three tables into a folder.

    Args:
        npm_dir: Folder with `node_modules`.
        to: Folder of the tables.
    """
    cities, countries = bake_cities(npm_dir), bake_countries(npm_dir)
    write_rows(to / "cities.csv", CITY_COLUMNS, cities)
    write_rows(to / "countries.csv", COUNTRY_COLUMNS, countries)
    holidays = bake_holidays([row["key"] for row in countries])
    write_rows(to / "holidays.csv", HOLIDAY_COLUMNS, holidays)


if __name__ == "__main__":
    main()
