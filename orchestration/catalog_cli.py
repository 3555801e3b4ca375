"""`worldloop catalog`: how the catalogs of all sites stand, and what a person does about them."""

import getpass
import json
from collections.abc import Callable, Iterable
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestration.terminal import show_table
from worldloop.errors import StoreError, WorldloopError

_console = Console(stderr=True)
_one_site = click.option("--site", default="all", show_default=True, help="One site, or all.")


@click.group()
def catalog() -> None:
    """The catalogs of all sites: status, repair, rebuild, backup, retract."""


@catalog.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a site, with more detail.")
@_one_site
def status(*, as_json: bool, site: str) -> None:
    """Say how far behind each site is, what it holds, and what it cost today."""
    from worldloop.catalog_status import COLUMNS, table_rows

    catalogs = _catalogs()
    with _console.status("asking every site"):
        found = catalogs.statuses(_names(catalogs, site))
    if as_json:
        click.echo(json.dumps([one.record() for one in found], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    rows = table_rows(found)
    shown = [name for name in COLUMNS if name != "problem"]
    for number, name in enumerate(shown):
        words = [row[number] for row in rows]
        table.add_column(name, justify="right" if _is_number(words) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(word) for word in row[: len(shown)]))
    show_table(table)
    for one in found:
        if one.problem:
            click.echo(f"{one.site}: {one.problem}")


@catalog.command()
@_one_site
def update(site: str) -> None:
    """Bring the catalogs up to date now, as the daemon does when a wave enters the logs."""
    from assets.site_catalogs import asset_name
    from orchestration.deployments import home
    from orchestration.instance import open_instance
    from orchestration.terminal import chatter_in

    names = _names(_writable(), site)
    instance = open_instance()
    from orchestration.main_job import update_catalogs

    with chatter_in(home() / "run.log"):
        failed = update_catalogs(instance, names)
    for name in names:
        click.echo(f"{asset_name(name)}: {failed.get(name, 'up to date')}")
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(names)} catalogs could not be brought up to date."
        )


@catalog.command()
@_one_site
@click.option("--projection", default="", help="Only this one: lance, iceberg or a registration.")
def rebuild(site: str, projection: str) -> None:
    """Make the catalogs anew from the logs alone."""
    catalogs = _writable()

    def one(name: str) -> str:
        done = catalogs.rebuild(name, projection=projection, actor=actor())
        return ", ".join(f"{what} {applied.num_rows:,} rows" for what, applied in done.items())

    _each(_names(catalogs, site), "rebuilding", one)


@catalog.command()
@_one_site
@click.option(
    "--deep", is_flag=True, help="Read and hash everything instead of comparing listings."
)
def repair(site: str, *, deep: bool) -> None:
    """Look for holes in logs, copies, packs and tables, and put back what is missing."""
    from resources.catalog_repair import heal

    catalogs = _writable()

    def one(name: str) -> str:
        healed = heal(catalogs, name, deep=float(deep))
        catalogs.audit(
            name,
            "repair",
            actor=actor(),
            of_kind="all",
            of_id="deep" if deep else "listings",
            reason=f"{healed.num_repaired} of {healed.num_missing} repaired",
        )
        words = f"{healed.num_missing} missing, {healed.num_repaired} put back"
        if healed.unreachable:
            words += f"; not asked: {', '.join(healed.unreachable)}"
        if healed.still_missing:
            raise StoreError(f"{words}; still missing: {'; '.join(healed.still_missing[:5])}")
        return words

    _each(_names(catalogs, site), "looking for holes", one)


@catalog.command()
@_one_site
def replicate(site: str) -> None:
    """Copy the shared logs of all sites to all others; only what is missing travels."""
    catalogs = _writable()

    def one(name: str) -> str:
        done = catalogs.replicate(name)
        if done.unheard:
            raise StoreError("; ".join(f"{other}: {why}" for other, why in done.unheard.items()))
        again = f", {len(done.refilled)} of them had been lost" if done.refilled else ""
        return f"{done.copied} batches came{again}"

    _each(_names(catalogs, site), "copying logs", one)


@catalog.command()
@_one_site
def backup(site: str) -> None:
    """Copy what is new of each site into its own backup (`backup` in sites.toml)."""
    from resources.catalog_repair import back_up

    catalogs = _writable()
    _each(_names(catalogs, site), "backing up", lambda name: back_up(catalogs, name))


@catalog.command()
@click.argument("site")
@click.option("--number", type=int, help="The state after this backup; the newest if left out.")
@click.option("--to", default="", help="Another, empty store; the site's own if left out.")
def restore(site: str, number: int | None, to: str) -> None:
    """Make the store of SITE from its backup; the catalogs are then rebuilt from the logs."""
    from resources.catalog_repair import restore as bring_back

    catalogs = _writable()
    with _console.status(f"restoring {site}"):
        words = bring_back(catalogs, site, number=number, into=to, actor=actor())
    click.echo(words)


@catalog.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why, for the audit; it stays.")
@click.option(
    "--purge", is_flag=True, help="Also empty their rows in old log batches; stop other runs first."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def retract(ids: tuple[str, ...], reason: str, *, purge: bool, yes: bool) -> None:
    """Take clips back for good, by recipe ids: from logs, replicas, releases, packs and catalogs."""
    from resources.catalog_repair import retract as take_back

    catalogs = _writable()
    if not yes:
        click.confirm(f"Take back {len(ids)} clips at every site, for good?", abort=True)
    with _console.status("taking back"):
        told = take_back(catalogs, ids, reason=reason, actor=actor(), purge=purge)
    for line in told:
        click.echo(line)


@catalog.command()
def validate() -> None:
    """Read the sites file over, and ask every store whether it can carry the logs."""
    from orchestration.catalog_validation import examine_sites

    catalogs = _catalogs()
    with _console.status("asking every store"):
        findings = examine_sites(catalogs)
    table = Table("", "site", "what", "found", "what to do")
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]wrong[/]"
        table.add_row(
            mark, finding.site, finding.what, escape(finding.found), escape(finding.remedy)
        )
    show_table(table)
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        raise click.ClickException(f"{wrong} things are wrong, see above.")


def actor() -> str:
    """Who is at the keyboard, for audit rows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _catalogs() -> Any:
    from orchestration.deployments import resources

    return resources()["catalogs"]


def _writable() -> Any:
    """The catalogs, for commands that write: a read-only process is told at once."""
    catalogs = _catalogs()
    if catalogs.read_only:
        from resources.read_only_store import refuse_to_write

        refuse_to_write("change catalogs")
    return catalogs


def _names(catalogs: Any, site: str) -> list[str]:
    names: list[str] = catalogs.federation.names
    return names if site == "all" else [catalogs.federation.site(site).name]


def _each(names: Iterable[str], doing: str, work: Callable[[str], str]) -> None:
    """Do it at every site; one that fails stops no other, and all that failed are named."""
    failed = []
    for name in names:
        try:
            with _console.status(f"{name}: {doing}"):
                words = work(name)
        except WorldloopError as error:
            failed.append(name)
            words = f"failed: {error}"
        click.echo(f"{name}: {words}")
    if failed:
        raise click.ClickException(f"It failed at {', '.join(failed)}; the others are done.")


def _is_number(words: Iterable[str]) -> bool:
    return all(word[:1].isdigit() or word in ("-", "unreachable") for word in words)
