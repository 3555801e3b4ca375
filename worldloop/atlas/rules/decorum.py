"""Rules of decorum and species: what a row may claim, and that every slot resolves."""

import re
from collections.abc import Iterator
from itertools import pairwise

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.opening import parse_closing_days, parse_hours
from worldloop.atlas.records import ANY_INSTITUTION, EVIDENCE, SCOPES, Decorum, Species
from worldloop.atlas.rules.cities import INHABITED
from worldloop.atlas.rules.registry import (
    doubled,
    is_known_source,
    listed,
    rule,
    source_sentence,
)
from worldloop.errors import MalformedRecordError

PHRASES = ("architecture", "furniture", "fixtures", "queueing", "courtesy", "sign_style")
FEWEST_PHRASES = 6  # of a slot of phrases in the world's row
CLAUSES = ("queueing", "courtesy")
TOPS = ("shirt", "coat", "scrubs", "uniform", "jacket", "robe", "hi-vis vest")
BOTTOMS = ("trousers", "skirt", "shorts", "robe")
HEADS = ("none", "cap", "headscarf", "straw hat", "hard hat", "nurse cap")
FACADES = ("brick", "plaster", "stone", "concrete", "glass")
KINDS = ("tree", "shrub", "flower", "grass", "bird", "animal")


def _rows(atlas: Atlas) -> Iterator[tuple[str, Decorum]]:
    """Decorum rows with the words that name them."""
    for row in atlas.decorum_rows:
        yield f"decorum.csv, row {row.scope}:{row.scope_key} {row.institution}/{row.slot}", row


def _species(atlas: Atlas) -> Iterator[tuple[str, Species]]:
    """Species with the words that name their row."""
    for one in atlas.species_rows:
        yield f"species.csv, row {one.name!r}", one


def _claims(atlas: Atlas) -> Iterator[tuple[str, str, str]]:
    """Where, source and evidence of every row that claims something."""
    for where, row in _rows(atlas):
        yield where, row.source, row.evidence
    for where, one in _species(atlas):
        yield where, one.source, one.evidence


@rule
def source_is_known(atlas: Atlas) -> Iterator[str]:
    """Decorum and species have a source."""
    for where, source, _ in _claims(atlas):
        if not is_known_source(atlas, source):
            yield source_sentence(source, where)


@rule
def evidence_is_known(atlas: Atlas) -> Iterator[str]:
    """The class of the evidence is one of four."""
    for where, _, evidence in _claims(atlas):
        if evidence not in EVIDENCE:
            yield f"{where} has evidence {evidence!r}; expected one of {listed(EVIDENCE)}."


@rule
def evidence_is_that_of_its_source(atlas: Atlas) -> Iterator[str]:
    """`generic` is a source and a class at once; what a page says is curated."""
    for where, source, evidence in _claims(atlas):
        if (source == "generic") != (evidence == "generic"):
            yield f"{where} has source {source!r} with evidence {evidence!r}; both or none are generic."
        if source.startswith("page:") and evidence != "curated":
            yield f"{where} cites a page with evidence {evidence!r}; expected 'curated'."


@rule
def curated_cites_a_page_or_a_package(atlas: Atlas) -> Iterator[str]:
    """What people wrote cites something that others can open."""
    for where, source, evidence in _claims(atlas):
        base = source.partition(":")[0]
        packaged = atlas.sources.get(base, {}).get("evidence") == "package" and ":" in source
        if evidence == "curated" and base != "page" and not packaged:
            yield (
                f"{where} is curated from {source!r}; expected 'page:<id>' or the row of a package "
                "such as 'osm:shop/bakery'. Without one it may only be generic, for the world."
            )


@rule
def generic_is_for_the_world(atlas: Atlas) -> Iterator[str]:
    """A neutral default claims nothing local."""
    for where, row in _rows(atlas):
        if row.evidence == "generic" and row.scope != "world":
            yield f"{where} claims something local; that needs evidence other than 'generic'."


@rule
def scope_is_known(atlas: Atlas) -> Iterator[str]:
    """Scopes are world, region, country, admin1 and city."""
    for where, row in _rows(atlas):
        if row.scope not in SCOPES:
            yield f"{where} has scope {row.scope!r}; expected one of {listed(SCOPES)}."


@rule
def scope_names_something(atlas: Atlas) -> Iterator[str]:
    """Some city lies in the scope of every row."""
    cities = atlas.cities.values()
    found: dict[str, set[str]] = {s: {city.scope_key(s) for city in cities} for s in SCOPES}
    for where, row in _rows(atlas):
        if row.scope in found and row.scope_key not in found[row.scope]:
            yield f"{where} names {row.scope_key!r}, where the atlas has no city."


@rule
def slot_is_known(atlas: Atlas) -> Iterator[str]:
    """A row rules a slot that its institution has; one of `*` a slot that some institution has."""
    for where, row in _rows(atlas):
        kinds = [
            kind
            for kind in atlas.institutions.values()
            if row.institution in (kind.key, ANY_INSTITUTION)
        ]
        if not any(row.slot in kind.decorum_slots for kind in kinds):
            yield f"{where} rules a slot that its institution does not have."


@rule
def decorum_stands_once(atlas: Atlas) -> Iterator[str]:
    """Two rows of one scope and slot would contradict each other."""
    rows = ((row.scope, row.scope_key, row.institution, row.slot) for row in atlas.decorum_rows)
    for key in doubled(rows):
        yield f"decorum.csv has the row {key} more than once."


@rule
def decorum_is_sorted(atlas: Atlas) -> Iterator[str]:
    """Rows lie by institution, slot, scope and scope key, so that a change reads as one."""
    keys = [(row.institution, row.slot, row.scope, row.scope_key) for row in atlas.decorum_rows]
    for before, after in pairwise(keys):
        if after < before:
            yield f"decorum.csv has the row {after} after {before}; expected it before."
            return


@rule
def values_are_there(atlas: Atlas) -> Iterator[str]:
    """Every alternative says something, and none stands twice."""
    for where, row in _rows(atlas):
        if not all(value.strip() == value != "" for value in row.values) or doubled(row.values):
            yield f"{where} has an empty, spaced or doubled alternative among {listed(row.values)}."


@rule
def world_has_alternatives(atlas: Atlas) -> Iterator[str]:
    """Phrases of the world's rows have enough alternatives for prompts to differ."""
    for where, row in _rows(atlas):
        if row.scope == "world" and row.slot in PHRASES and len(row.values) < FEWEST_PHRASES:
            yield f"{where} has {len(row.values)} values; expected at least {FEWEST_PHRASES}."


@rule
def phrases_fit_a_sentence(atlas: Atlas) -> Iterator[str]:
    """Phrases begin in lower case and end without a full stop, so that prose can join them."""
    for where, row in _rows(atlas):
        for value in row.values if row.slot in PHRASES else ():
            if value.endswith((".", ",", ";")) or (row.slot in CLAUSES and " " not in value):
                yield f"{where} has {value!r}; expected a phrase without a full stop."


@rule
def dress_can_be_drawn(atlas: Atlas) -> Iterator[str]:
    """A dress is `top/bottom/head/color` in words that the renderer and the prose know."""
    for where, row in _rows(atlas):
        for value in row.values if row.slot.startswith("dress:") else ():
            parts = value.split("/")
            known = len(parts) == 4 and parts[0] in TOPS and parts[1] in BOTTOMS
            if not known or parts[2] not in HEADS:
                yield f"{where} has {value!r}; expected top/bottom/head/color of records.Dress."


@rule
def facade_can_be_drawn(atlas: Atlas) -> Iterator[str]:
    """A facade is a material that the renderer knows."""
    for where, row in _rows(atlas):
        if row.slot == "facade" and not set(row.values) <= set(FACADES):
            yield f"{where} has {listed(row.values)}; expected of {listed(FACADES)}."


@rule
def hours_parse(atlas: Atlas) -> Iterator[str]:
    """Slots `hours` and `closed_on` have one value, which parses."""
    for where, row in _rows(atlas):
        parse = {"hours": parse_hours, "closed_on": parse_closing_days}.get(row.slot)
        if parse is None:
            continue
        if len(row.values) != 1:
            yield f"{where} has {len(row.values)} values; expected one."
        try:
            parse(row.values[0])
        except MalformedRecordError as error:
            yield f"{where}: {error}"


@rule
def every_slot_resolves(atlas: Atlas) -> Iterator[str]:
    """Every slot of every institution has a row of the world, so that every city has one."""
    ruled = {(row.institution, row.slot) for row in atlas.decorum_rows if row.scope == "world"}
    for kind in atlas.institutions.values():
        opening = ("hours", "closed_on") if kind.hours in atlas.opening_classes else ()
        for slot in kind.decorum_slots:
            if not ruled & {(kind.key, slot), (ANY_INSTITUTION, slot)} and slot not in opening:
                yield f"decorum.csv has no world row for {kind.key}/{slot}, so cities lack it."


@rule
def species_classes_match(atlas: Atlas) -> Iterator[str]:
    """The climates of a species are a regular expression that some city's class fits."""
    climates = {city.koeppen for city in atlas.cities.values()}
    for where, one in _species(atlas):
        try:
            fits = any(re.fullmatch(one.classes, climate) for climate in climates)
        except re.error as error:
            yield f"{where} has classes {one.classes!r}, no regular expression: {error}."
            continue
        if not fits:
            yield f"{where} has classes {one.classes!r}, which no city's climate fits."


@rule
def species_is_sound(atlas: Atlas) -> Iterator[str]:
    """Kind, continents, institutions and needs of a species exist, and its name stands once a kind."""
    for where, one in _species(atlas):
        if one.kind not in KINDS:
            yield f"{where} has kind {one.kind!r}; expected one of {listed(KINDS)}."
        if not set(one.continents) <= INHABITED:
            yield f"{where} has continents {listed(one.continents)}; expected GeoNames codes."
        if not set(one.institutions) <= set(atlas.institutions):
            yield f"{where} has institutions {listed(one.institutions)}, not all of them known."
        if not set(one.needs) <= {"warm", "mild", "light", "dark"}:
            yield f"{where} needs {listed(one.needs)}; expected of 'warm', 'mild', 'light' and 'dark'."
