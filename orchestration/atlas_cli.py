"""`worldloop atlas`: what the atlas says about a place and where it has it from, and whether it is sound."""

import json
from dataclasses import asdict

import click
from rich.markup import escape
from rich.table import Table

from orchestration.terminal import show_table


@click.group()
def atlas() -> None:
    """The places of the world: show one with its sources, check all tables."""


@atlas.command()
@click.argument("place")
@click.option("--slot", default="", help="Only slots that begin so, e.g. sign or dress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a fact.")
def show(place: str, slot: str, *, as_json: bool) -> None:
    """Say every fact of PLACE (tokyo/zoo) with scope, source and evidence."""
    from worldloop.atlas.atlas import load_atlas
    from worldloop.atlas.facts import place_facts

    facts = [one for one in place_facts(load_atlas(), place) if one.slot.startswith(slot)]
    if as_json:
        click.echo(json.dumps([asdict(one) for one in facts], indent=1, ensure_ascii=False))
        return
    if not facts:
        raise click.BadParameter(f"no slot of {place} begins with {slot!r}", param_hint="--slot")
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
