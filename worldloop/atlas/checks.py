"""What must hold in an atlas: a list of problems, empty when it is sound."""

import unicodedata
from collections import Counter
from collections.abc import Iterator

from worldloop.atlas.atlas import FALLBACK_LANGUAGE, SCOPES, Atlas, Decorum
from worldloop.atlas.signs import sign_texts

CONFIDENCES = ("generic", "low", "medium", "high")
INHABITED = frozenset({"AF", "AS", "EU", "NA", "OC", "SA"})
SCRIPT_WORDS: dict[str, tuple[str, ...]] = {  # how Unicode names begin for letters of a script
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Khmr": ("KHMER",),
    "Knda": ("KANNADA",),
    "Kore": ("HANGUL",),
    "Latn": ("LATIN", "MODIFIER LETTER TURNED COMMA"),
    "Mymr": ("MYANMAR",),
    "Sinh": ("SINHALA",),
    "Taml": ("TAMIL",),
    "Thai": ("THAI",),
}


def atlas_problems(atlas: Atlas) -> list[str]:
    """Every problem of an atlas as a sentence that says where it is and what would be right."""
    return [
        *_city_problems(atlas),
        *_sign_problems(atlas),
        *_decorum_problems(atlas),
        *_totality_problems(atlas),
        *_climate_problems(atlas),
    ]


def off_script(text: str, script: str) -> str:
    """The letters and marks of a text that are not of a script; shared signs belong to all.

    Example:
        >>> off_script("病院 A", "Jpan")
        'A'
    """
    words = SCRIPT_WORDS.get(script, ())
    letters = [char for char in text if unicodedata.category(char)[0] in "LM"]
    return "".join(char for char in letters if not unicodedata.name(char, "").startswith(words))


def _city_problems(atlas: Atlas) -> Iterator[str]:
    """Sources, languages, ranges and coverage of the cities."""
    for city in atlas.cities.values():
        for source in (city.languages_source, city.koeppen_source):
            yield from _source_problem(atlas, source, f"city {city.key!r}")
        if city.languages[0] not in atlas.languages:
            yield (
                f"City {city.key!r} has street language {city.languages[0]!r}, which languages.csv "
                "lacks. Add it to inputs/languages.csv and bake again."
            )
        if abs(city.latitude_deg) > 90 or abs(city.longitude_deg) > 180:
            yield f"City {city.key!r} lies off the globe."
        if not city.endonym or not city.region:
            yield f"City {city.key!r} lacks an endonym or a region in inputs/cities.csv."
    missing = INHABITED - {city.continent for city in atlas.cities.values()}
    if missing:
        yield f"No city lies on {', '.join(sorted(missing))}; every inhabited continent needs one."
    names = Counter(city.geonameid for city in atlas.cities.values())
    yield from (f"GeoNames id {key} is in {n} cities." for key, n in names.items() if n > 1)


def _sign_problems(atlas: Atlas) -> Iterator[str]:
    """Duplicate and unsourced signs, letters of another script, texts without a bitmap."""
    drawn = sign_texts()
    counts = Counter((sign.language, sign.word) for sign in atlas.signs)
    yield from (f"Sign {key} stands {n} times in signs.csv." for key, n in counts.items() if n > 1)
    for sign in atlas.signs:
        where = f"sign {sign.word!r} in {sign.language!r}"
        yield from _source_problem(atlas, sign.source, where)
        if sign.word not in atlas.words:
            yield f"The {where} is no word of inputs/sign_words.csv."
        script = atlas.languages[sign.language].script
        odd = off_script(sign.text, script)
        if odd:
            yield f"The {where} has {odd!r}, which is not of script {script}."
        if sign.text not in drawn.get(sign.language, ()):
            yield f"The {where} has no bitmap; run worldloop.atlas.bake_signs."
    english = {sign.word for sign in atlas.signs if sign.language == FALLBACK_LANGUAGE}
    for word in sorted(set(atlas.words) - english):
        yield f"Sign word {word!r} has no English text, the last fallback."


def _decorum_problems(atlas: Atlas) -> Iterator[str]:
    """Rows that nothing can find, contradict each other or claim without a source."""
    found = {scope: {city.scope_key(scope) for city in atlas.cities.values()} for scope in SCOPES}
    counts = Counter(
        (row.scope, row.scope_key, row.institution, row.slot) for row in atlas.decorum_rows
    )
    yield from (f"Decorum row {key} stands {n} times." for key, n in counts.items() if n > 1)
    for row in atlas.decorum_rows:
        where = f"decorum row {row.scope}:{row.scope_key} {row.institution}/{row.slot}"
        yield from _source_problem(atlas, row.source, where)
        yield from _row_problems(atlas, row, where)
        if row.scope not in SCOPES:
            yield f"The {where} has an unknown scope; scopes are {', '.join(SCOPES)}."
        elif row.scope_key not in found[row.scope]:
            yield f"The {where} names no city of the atlas."


def _row_problems(atlas: Atlas, row: Decorum, where: str) -> Iterator[str]:
    """Slot, confidence and values of one row."""
    kind = atlas.institutions.get(row.institution)
    if kind is None or row.slot not in kind.decorum_slots:
        yield f"The {where} rules a slot that its institution does not have."
    if row.confidence not in CONFIDENCES:
        yield f"The {where} has confidence {row.confidence!r}, not of {', '.join(CONFIDENCES)}."
    if row.source == "generic" and row.scope != "world":
        yield f"The {where} claims something local; that needs a source other than 'generic'."
    if not all(row.values):
        yield f"The {where} has an empty value."
    if row.slot.startswith("dress:") and any(value.count("/") != 3 for value in row.values):
        yield f"The {where} needs values like top/bottom/head/color."


def _totality_problems(atlas: Atlas) -> Iterator[str]:
    """Every slot must resolve for every city, which the world scope guarantees."""
    ruled = {(row.institution, row.slot) for row in atlas.decorum_rows if row.scope == "world"}
    for kind in atlas.institutions.values():
        for slot in kind.decorum_slots:
            if (kind.key, slot) not in ruled:
                yield f"Decorum has no world row for {kind.key}/{slot}, so some city lacks it."
        for word in (*kind.sign_words, *filter(None, [kind.own_word])):
            if word not in atlas.words:
                yield f"Institution {kind.key!r} wants sign word {word!r}, which nobody wrote."
        if not 0 <= kind.opens < kind.closes <= 24:
            yield f"Institution {kind.key!r} opens at {kind.opens} and closes at {kind.closes}."


def _climate_problems(atlas: Atlas) -> Iterator[str]:
    """Each class that a city has needs weather in each season."""
    seasons = {season for rule in atlas.weather_rules for season in rule.seasons}
    rules = [
        rule for rule in atlas.weather_rules if len(rule.weights) != 5 or not sum(rule.weights)
    ]
    yield from (f"Weather rule {rule} needs five weights, not all zero." for rule in rules)
    needed = {"spring", "summer", "autumn", "winter", "wet season", "dry season"}
    if seasons != needed:
        yield f"Weather rules have seasons {sorted(seasons)}; needed are {sorted(needed)}."


def _source_problem(atlas: Atlas, source: str, where: str) -> Iterator[str]:
    """A fact without a source that `sources.toml` knows."""
    if source.split(":")[0] not in atlas.sources:
        yield f"The {where} has source {source!r}, which sources.toml does not list."
