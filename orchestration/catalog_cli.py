"""`worldloop catalog`: how the catalogs of all sites stand, and what a person does about them."""

import getpass
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestration.terminal import show_table
from worldloop.errors import StoreError, WorldloopError

_WIDE = 140  # columns of a terminal that has room for addresses too
_HEADERS = {
    "lag_s": "lag s",
    "num_rows": "rows",
    "size_bytes": "size",
    "last_repair": "last repair",
    "num_requests": "requests",
    "cost_usd": "USD",
    "took_s": "took s",
}
_console = Console(stderr=True)
_one_site = click.option("--site", default="all", show_default=True, help="One site, or all.")


@click.group()
def catalog() -> None:
    """The catalogs of all sites: status, repair, rebuild, backup, retract."""


@catalog.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a site, with more detail.")
@_one_site
def status(*, as_json: bool, site: str) -> None:
    """Say how each site stands, and what it cost today."""
    from worldloop.catalog_status import COLUMNS, table_rows

    catalogs = _catalogs()
    with _console.status("asking every site"):
        found = catalogs.statuses(_names(catalogs, site))
    if as_json:
        click.echo(json.dumps([one.record() for one in found], indent=1))
        return
    _show_statuses(COLUMNS, table_rows(found))
    for one in found:
        if one.problem:
            click.echo(f"{one.site}: {one.problem}")


@catalog.command()
@_one_site
def update(site: str) -> None:
    """Bring the catalogs up to date now. The daemon does it when a wave enters the logs."""
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
    rebuild_catalogs(site, projection=projection)


def rebuild_catalogs(site: str, *, projection: str = "") -> None:
    """Make the catalogs of a site, or of all, anew; `worldloop rebuild` is this too."""
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
    """Find holes in logs, copies, packs and tables, and fill them."""
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
    """Copy the shared logs of all sites to all others. Only what is missing travels."""
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
@click.option("--list", "listed", is_flag=True, help="Only list the states that can be restored.")
def backup(site: str, *, listed: bool) -> None:
    """Copy what is new of each site into its backup. `backup` in sites.toml says where that is."""
    from resources.catalog_repair import back_up, list_backups

    if listed:
        catalogs = _catalogs()
        _each(_names(catalogs, site), "reading", lambda name: list_backups(catalogs, name))
        return
    catalogs = _writable()
    _each(_names(catalogs, site), "backing up", lambda name: back_up(catalogs, name))


@catalog.command()
@click.argument("site")
@click.option("--number", type=int, help="The state after this backup; the newest if left out.")
@click.option("--to", default="", help="Another, empty store; the site's own if left out.")
def restore(site: str, number: int | None, to: str) -> None:
    """Make the store of SITE from its backup. The catalogs are then rebuilt from the logs."""
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
    """Take clips back for good, by their recipe ids. They leave logs, replicas, packs, catalogs and backups."""
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
    """Check the sites file and every store. A store has to carry the logs, and be closed to everybody."""
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


def _show_statuses(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One row a site; a narrow terminal gets fewer columns instead of broken words."""
    is_wide = not Console().is_terminal or Console().width >= _WIDE
    left_out = {"problem"} if is_wide else {"problem", "location", "took_s"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0) if is_wide else (0, 1, 0, 0))
    for name, *words in zip(columns, *rows, strict=True):
        if name not in left_out:
            justify: Literal["left", "right"] = "right" if _is_number(words) else "left"
            table.add_column(_HEADERS.get(name, name), justify=justify, no_wrap=name != "location")
    for row in rows:
        shown = (w for name, w in zip(columns, row, strict=True) if name not in left_out)
        table.add_row(*map(escape, shown))
    show_table(table)


def _is_number(words: Iterable[str]) -> bool:
    return all(word[:1].isdigit() or word in ("-", "unreachable") for word in words)
