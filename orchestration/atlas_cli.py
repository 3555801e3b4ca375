"""`worldloop atlas`: what the atlas says about a place and where it has it from, and whether it is sound."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict

import click
from rich.markup import escape
from rich.table import Table

from orchestration.terminal import show_table

_LISTED = ("cities", "institutions")


@click.group()
def atlas() -> None:
    """The places of the world: list them, show one with its sources, check all tables."""


@atlas.command("list")
@click.argument("what", metavar="cities|institutions", type=click.Choice(_LISTED))
def list_keys(what: str) -> None:
    """Say the keys that make a place, <city>/<institution>, and their aliases."""
    from worldloop.atlas.atlas import load_atlas
    from worldloop.worlds.grammar import GRAMMARS

    tables = load_atlas()
    aliases = _aliases_by_key(tables.aliases["city" if what == "cities" else "institution"])
    if what == "cities":
        table = Table("key", "name", "country", "aliases", box=None, pad_edge=False)
        for city in tables.cities.values():
            country = tables.country(city.key).name
            table.add_row(city.key, city.name, country, aliases.get(city.key, ""))
    else:
        table = Table("key", "setting", "cities", "sketched", "aliases", box=None, pad_edge=False)
        for kind in tables.institutions.values():
            count = sum(tables.has(city, kind.key) for city in tables.cities)
            sketched = "yes" if kind.key in GRAMMARS else "-"
            table.add_row(kind.key, kind.setting, str(count), sketched, aliases.get(kind.key, ""))
    show_table(table)


def _aliases_by_key(aliases: Mapping[str, str]) -> dict[str, str]:
    """All aliases of each key, in one line."""
    found: dict[str, list[str]] = {}
    for alias, key in aliases.items():
        found.setdefault(key, []).append(alias)
    return {key: ", ".join(names) for key, names in found.items()}


@atlas.command()
@click.argument("place")
@click.option("--slot", default="", help="Only slots that begin so, e.g. sign or dress.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list with one object a fact.")
def show(place: str, slot: str, *, as_json: bool) -> None:
    """Say every fact of PLACE (tokyo/zoo) with scope, source and evidence."""
    from worldloop.atlas.atlas import load_atlas
    from worldloop.atlas.facts import place_facts

    known = place_facts(load_atlas(), place)
    facts = [one for one in known if one.slot.startswith(slot.lower())]
    if not facts:
        kinds = ", ".join(dict.fromkeys(re.split("[.:]", one.slot)[0] for one in known))
        raise click.BadParameter(
            f"no slot of {place} begins with {slot!r}; they begin with {kinds}", param_hint="--slot"
        )
    if as_json:
        click.echo(json.dumps([asdict(one) for one in facts], indent=1, ensure_ascii=False))
        return
    table = Table("fact", "value", "holds for", "source", "evidence", box=None, pad_edge=False)
    for one in facts:
        table.add_row(
            *(escape(text) for text in (one.slot, one.value, one.scope, one.source)), one.evidence
        )
    show_table(table)


@atlas.command()
def check() -> None:
    """Run every rule over every table; name row and rule of what is wrong."""
    from worldloop.atlas.atlas import load_atlas
    from worldloop.atlas.checks import atlas_problems
    from worldloop.atlas.rules.registry import RULES

    tables = load_atlas()
    problems = atlas_problems(tables)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise click.ClickException(
            f"{len(problems)} problems. Each line names the row and, in brackets, the rule."
        )
    places = sum(tables.has(city, kind) for city in tables.cities for kind in tables.institutions)
    click.echo(
        f"Atlas {tables.hash}: {len(tables.cities)} cities, {len(tables.institutions)} institutions, "
        f"{places} places; all {len(RULES)} rules hold."
    )
