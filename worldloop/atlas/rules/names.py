"""The rule of names: no phrase of the atlas names a real institution, operator or brand."""

import importlib
from collections.abc import Callable, Iterator, Sequence

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.rules.registry import listed, rule

BLOCKLIST = "worldloop.atlas.blocklist"


@rule
def no_name_is_blocked(atlas: Atlas) -> Iterator[str]:
    """Names of brands, operators and institutions stand in no phrase that a prompt may say."""
    blocked = _blocked_names()
    for where, text in _phrases(atlas) if blocked else ():
        names = blocked(text) if blocked else ()
        if names:
            yield f"{where} has {text!r}, which names {listed(names)}; say what it is instead."


def _blocked_names() -> Callable[[str], Sequence[str]] | None:
    """What finds blocked names in a text; nothing where no block list was baked."""
    try:
        find: Callable[[str], Sequence[str]] = importlib.import_module(BLOCKLIST).blocked_names
    except ModuleNotFoundError as error:
        if error.name != BLOCKLIST:
            raise
        return None
    return find


def _phrases(atlas: Atlas) -> Iterator[tuple[str, str]]:
    """Every phrase of people's tables, with the words that name its row."""
    for kind in atlas.institutions.values():
        for text in (kind.name, *kind.roles, *kind.props):
            yield f"institutions.toml, [{kind.key}]", text
    for one in atlas.activity_rows:
        for text in (one.says, *one.beats, *one.setting_words):
            yield f"activities.toml, [{one.institution}.{one.key}]", text
    for road in atlas.roads.values():
        for text in (road.name, *road.structures, *road.manoeuvres):
            yield f"roads.toml, [{road.key}]", text
    for row in atlas.decorum_rows:
        for text in row.values if not row.slot.startswith("dress:") else ():
            yield (
                f"decorum.csv, row {row.scope}:{row.scope_key} {row.institution}/{row.slot}",
                text,
            )
    for species in atlas.species_rows:
        yield f"species.csv, row {species.name!r}", species.name
