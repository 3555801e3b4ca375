"""Which languages stand on the signs of a city: from CLDR, corrected by `inputs/language_overrides.csv`."""

from functools import cache
from pathlib import Path

from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.errors import MalformedRecordError

MOST_LANGUAGES = 2
SCRIPTS = {"zh": "zh-Hans"}  # CLDR's likely script, named because Chinese signs have two
OWN_WORDS = {("en", "CA"), ("en", "GB"), ("es", "AR")}  # have signs of their own
PARENTS = {"pt_PT": "pt-PT", "en_001": "en-001", "es_419": "es-419"}  # of CLDR's locales


def street_languages(country: str, admin1: str) -> tuple[list[str], str]:
    """BCP 47 tags, first the language of street signs, and the source of the choice.

    An override of the division wins, then one of the country, then CLDR's official languages by speakers.

    Args:
        country: ISO 3166 code.
        admin1: `<country>.<GeoNames code>`.
    """
    rows = overrides()
    for scope, key in (("admin1", admin1), ("country", country)):
        if (scope, key) in rows:
            tags = [_variant(tag.replace("-", "_"), country) for tag in rows[scope, key]]
            return tags, f"override:{scope}:{key}"
    return official_languages(country)[:MOST_LANGUAGES], "cldr-territories"


def official_languages(country: str) -> list[str]:
    """Official languages of a country, the most spoken first, each once; CLDR's variant of the country.

    A language without a locale in CLDR has no word for a sign, so it does not count (Tetum, Fiji Hindi).
    """
    from babel.languages import get_official_languages
    from babel.localedata import exists

    tags: list[str] = []
    for name in get_official_languages(country, de_facto=True, regional=False):
        tag = _variant(name, country)
        is_written = exists(name) or exists(name.split("_")[0])
        if is_written and tag.split("-")[0] not in {known.split("-")[0] for known in tags}:
            tags.append(tag)
    return tags


def _variant(name: str, country: str) -> str:
    """The tag that signs are kept under: `pt-PT` where CLDR's locale inherits from it, `zh-Hans` for `zh`."""
    from babel.core import get_global

    tag, local = name.replace("_", "-"), f"{name}_{country}"
    if (name, country) in OWN_WORDS:
        return local.replace("_", "-")
    parent = get_global("parent_exceptions").get(local, local)
    return PARENTS.get(parent, SCRIPTS.get(tag, tag))


@cache
def overrides(folder: Path = DATA) -> dict[tuple[str, str], list[str]]:
    """Languages by scope and key; every row is checked against what it cites.

    Args:
        folder: Folder of the tables, with `inputs/language_overrides.csv` and `pages.csv`.

    Raises:
        MalformedRecordError: If a row cites CLDR for a language that CLDR does not have there, or a page that is
            not in `pages.csv`.
    """
    rows = read_rows(folder / "inputs/language_overrides.csv")
    pages = {row["id"] for row in read_rows(folder / "pages.csv")}
    for number, row in enumerate(rows, start=2):
        kind, _, page = row["source"].partition(":")
        languages = row["languages"].split(";")
        cited = page in pages if kind == "page" else _cldr_has(row["scope_key"][:2], languages)
        if not cited:
            raise MalformedRecordError(
                f"inputs/language_overrides.csv, row {number}",
                row,
                "a page of pages.csv, or languages that CLDR has as official there",
                "Cite a page that was opened.",
            )
    return {(row["scope"], row["scope_key"]): row["languages"].split(";") for row in rows}


def _cldr_has(country: str, languages: list[str]) -> bool:
    """Whether CLDR gives each language a status in the country, national or regional."""
    from babel.languages import get_territory_language_info

    known = get_territory_language_info(country)
    official = {name.split("_")[0] for name, facts in known.items() if facts["official_status"]}
    return {tag.split("-")[0] for tag in languages} <= official
