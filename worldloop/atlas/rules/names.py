"""The rule of names: no phrase of the atlas names a real institution, operator or brand."""

from collections.abc import Iterator

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.blocklist import blocked_names
from worldloop.atlas.rules.registry import listed, rule


@rule
def no_name_is_blocked(atlas: Atlas) -> Iterator[str]:
    """Names of brands, operators and institutions stand in no phrase that a prompt may say."""
    for where, text in phrases(atlas):
        names = blocked_names(text)
        if names:
            yield f"{where} has {text!r}, which names {listed(names)}; say what it is instead."


def phrases(atlas: Atlas) -> Iterator[tuple[str, str]]:
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
