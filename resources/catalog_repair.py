"""What is done about a site's catalogs besides following the logs: compare, heal, back up, take back."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from resources.backup import back_up as save
from resources.backup import backups
from resources.backup import restore as bring_back
from resources.bucket_guard import findings
from resources.catalog_upkeep import Catalogs, Followed, moment_key, shared_heads
from resources.log_replicas import list_log, read_if_there
from resources.reconciler import Reconciliation, reconcile
from resources.retractions import take_back
from resources.site_store import SiteStore
from resources.site_view import SiteView
from worldloop.catalog_status import disagreement
from worldloop.errors import LeaseHeldError, LogDamageError, StoreError, WorldloopError
from worldloop.layout import projection_key, replica_prefix
from worldloop.logs import KINDS
from worldloop.reconciliation import Finding, reconciliation_rows
from worldloop.seeds import canonical_json

_AGREEMENT, _ICEBERG = "agreement", "iceberg"
_NUMBER = re.compile(r"logs/(private|shared)/([^/]+)/(?:claims/)?(\d{12})")
NIGHTLY_SHARE = 1 / 7  # so that a week reads all


@dataclass(frozen=True)
class Agreement:
    """Whether a site's Iceberg table `clips` is that of the others.

    Attributes:
        content: Hash of its content; empty if there is no such table here.
        agreeing: Sites with the same content.
        differing: Sites with another content.
        not_compared: Sites that say nothing now, each with why.
    """

    content: str
    agreeing: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Healed:
    """What a reconciliation of a site found and did.

    Attributes:
        num_missing: What was not as it should be.
        num_repaired: What of it was put back.
        still_missing: The rest, in words.
        unreachable: Places that did not answer, each with why.
    """

    num_missing: int
    num_repaired: int
    still_missing: tuple[str, ...] = ()
    unreachable: Mapping[str, str] = field(default_factory=dict)


def agreement(catalogs: Catalogs, name: str) -> Agreement:
    """Compare a site's Iceberg table `clips` with those of the others, at the same place in the logs.

    Each site leaves the hash of its content beside its projections, with the place in all shared
    logs that it was read at; so no table but the own one is read.

    Raises:
        UnreachableError: If the site's own store does not answer.
    """
    view = catalogs.federation.view(name)
    place = {site: shared_heads(log) for site, log in view.logs.items()}
    content = catalogs.content_hash(view)
    if not catalogs.read_only:
        record = {"format": 1, "place": place, "content": content}
        view.store.put(projection_key(_AGREEMENT), canonical_json(record))
    others, not_compared = dict[str, str](), dict[str, str]()
    for other in (one for one in catalogs.federation.names if one != name):
        try:
            found = read_if_there(catalogs.federation.store(other), projection_key(_AGREEMENT))
        except StoreError:
            not_compared[other] = "does not answer"
            continue
        theirs = json.loads(found) if found else {}
        if theirs.get("place") == place:
            others[other] = str(theirs["content"])
        else:
            not_compared[other] = "stands at another place in the logs"
    differing = disagreement(content, others)
    agreeing = tuple(site for site in others if site not in differing)
    return Agreement(content, agreeing, differing, not_compared)


def follow(catalogs: Catalogs, name: str, *, key: str) -> tuple[Followed, Healed | None]:
    """Bring a site's catalogs up to date; a log that has a hole is healed first.

    Args:
        catalogs: All of them.
        name: The site.
        key: Names this run in the ledger.

    Returns:
        What was done, and what was healed; None if there was no need.

    Raises:
        LogDamageError: If the hole cannot be filled.
        StoreError: As `Catalogs.follow` does.
    """
    try:
        return catalogs.follow(name, key=key), None
    except LogDamageError:
        healed = heal(catalogs, name, key=f"{key}/heal")
    return catalogs.follow(name, key=f"{key}/again"), healed


def heal(catalogs: Catalogs, name: str, *, deep: float = 0.0, key: str = "") -> Healed:
    """Look for what is missing at a site and put it back from where it still is.

    Args:
        catalogs: All of them.
        name: The site.
        deep: Share of all objects that is read and hashed, another one each day; above 0 the rows
            of the projections are compared too, those of the Iceberg tables value by value. With 0
            listings are compared.
        key: Names this run in the ledger.

    Raises:
        UnreachableError: If the site's own store does not answer.
        AccessError: If this process may only read.
    """
    catalogs.may_write(f"repair the site {name!r}")
    federation, view = catalogs.federation, catalogs.federation.view(name)
    others = {other: federation.store(other) for other in federation.names if other != name}
    seen = view.scratch / "position.json"
    with catalogs.paid(view.site, key or moment_key(f"heal/{name}"), num_batches=0):
        copied = {other: _copied_heads(store, name) for other, store in others.items()}
        found = reconcile(
            view,
            others=others,
            backup=federation.backup(name),
            projected=catalogs.shown(view) if deep else (),
            known=[seen.read_text()] if seen.exists() else [],
            deep=deep,
            turn=datetime.now(UTC).toordinal(),
        )
        holes = [one for one in found.findings if not _is_on_its_way(one, copied)]
        if deep:
            holes += _remade_tables(catalogs, view)
        if holes or deep:
            view.log.append("reconciliations", _without_news(found, holes))
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.write_text(view.log.position())
    still = tuple(str(hole) for hole in holes if not hole.repaired)
    return Healed(len(holes), len(holes) - len(still), still, found.unreachable)


def back_up(catalogs: Catalogs, name: str, *, key: str = "") -> str:
    """Copy what is new of a site into its own backup.

    Returns:
        What was saved, in words; that there is no backup, if none is configured.

    Raises:
        StoreError: If something had to be left out because it is damaged.
    """
    catalogs.may_write(f"back up the site {name!r}")
    target = catalogs.federation.backup(name)
    if target is None:
        return "no backup is configured (`backup` in sites.toml)"
    view = catalogs.federation.view(name)
    with catalogs.paid(view.site, key or moment_key(f"backup/{name}"), num_batches=0):
        made = save(view, target)
    if made.problems:
        raise StoreError(
            f"The backup of {name!r} left out {len(made.problems)} objects: "
            f"{'; '.join(made.problems[:3])}. Expected every object to be what its name says. Run "
            "`worldloop catalog repair --deep`, then back up again."
        )
    return f"backup {made.number}: {made.num_objects} objects, {made.num_added} of them new"


def list_backups(catalogs: Catalogs, name: str) -> str:
    """Which states of a site its backup can restore, in words, oldest first."""
    target = catalogs.federation.backup(name)
    if target is None:
        return "no backup is configured (`backup` in sites.toml)"
    lines = [
        f"\n  {state.number}: {state.made_at:%Y-%m-%d %H:%M} UTC, {state.num_objects} objects, "
        f"{state.size_bytes / 1e6:.1f} MB"
        + (f", {len(state.problems)} left out" * bool(state.problems))
        for state in backups(target)
    ]
    return "".join(lines) or "nothing was backed up yet"


def restore(
    catalogs: Catalogs, name: str, *, number: int | None = None, into: str = "", actor: str
) -> str:
    """Make a site's store from its backup, then its catalogs from the logs.

    Args:
        catalogs: All of them.
        name: The site.
        number: The state after this backup; the newest when not given.
        into: URL of another, empty store; the site's own when empty.
        actor: Who asks, for the audit.

    Returns:
        What was done, in words.

    Raises:
        StoreError: If there is no backup, or the target holds something else.
    """
    catalogs.may_write(f"restore the site {name!r}")
    federation = catalogs.federation
    source = federation.backup(name)
    if source is None:
        raise StoreError(
            f"The site {name!r} has no backup; expected `backup` in sites.toml to name a store. "
            "Name the one that holds the site's backup."
        )
    target = federation.store(name)
    done = bring_back(
        source, target.model_copy(update={"url": into}) if into else target, number=number
    )
    words = (
        f"{name}: backup {done.backup.number} of {done.backup.made_at:%Y-%m-%d %H:%M} UTC, "
        f"{done.num_written} objects written, root hash {done.backup.root_hash[:16]}"
    )
    if into:
        return f"{words}, in {into}"
    catalogs.audit(name, "restore", actor=actor, of_kind="backups", of_id=str(done.backup.number))
    rebuilt = catalogs.rebuild(name, actor=actor)
    return f"{words}; rebuilt {', '.join(rebuilt)}"


def _remade_tables(catalogs: Catalogs, view: SiteView) -> list[Finding]:
    """Iceberg tables whose values are not what the logs say: made anew, then compared again."""
    site, by_name = view.site.name, {one.name: one for one in catalogs.projections(view.site)}
    suspected = catalogs.differences(view)
    if not suspected:
        return []
    try:
        by_name[_ICEBERG].catch_up(view)  # rows that came meanwhile are lag, and no hole
    except LeaseHeldError:
        return []  # somebody is at it; the next run looks again
    odd = {name: num for name, num in catalogs.differences(view).items() if name in suspected}
    found = [
        Finding(
            site,
            site,
            _ICEBERG,
            "rows",
            "differs",
            table,
            "the rows that the logs give",
            f"{num_rows} rows that are missing, too many or otherwise",
            num_things=num_rows,
        )
        for table, num_rows in odd.items()
    ]
    if not found:
        return []
    try:
        by_name[_ICEBERG].rebuild(view)
        still = catalogs.differences(view)
    except WorldloopError as error:  # e.g. another committer is at work
        return [one.unhealed(str(error)) for one in found]
    remedy = f"Run `worldloop catalog rebuild --site {site} --projection {_ICEBERG}`"
    return [
        one.unhealed(remedy) if one.key in still else one.healed("made anew from the logs")
        for one in found
    ]


def _copied_heads(store: SiteStore, origin: str) -> Mapping[tuple[str, str], int]:
    """How far a store's copy of a site's shared log reaches, by log and kind; nothing if silent."""
    try:
        heads = list_log(store.within(replica_prefix(origin)), ("shared",)).heads()
    except StoreError:
        return {}
    return {(log, kind): head for (log, kind), head in heads.items()}


def _is_on_its_way(finding: Finding, copied: Mapping[str, Mapping[tuple[str, str], int]]) -> bool:
    """Whether a copy lacks what it has not been given yet: that is lag, and no hole."""
    number = _NUMBER.search(finding.key)
    if finding.site not in copied or number is None:
        return False
    return int(number[3]) > copied[finding.site].get((number[1], number[2]), 0)


def _without_news(found: Reconciliation, holes: Sequence[Finding]) -> pl.DataFrame:
    """The rows for the log, where only holes count as missing."""
    known = set(found.rows.select("site", "of_kind").rows())
    unseen = [hole for hole in holes if (hole.site, hole.of_kind) not in known]
    now = datetime.now(UTC)
    more = reconciliation_rows(unseen, {}, measured_at=now)
    rows = pl.concat([found.rows, more])
    missing = Counter[tuple[str, str]]()
    for hole in holes:
        missing[hole.site, hole.of_kind] += hole.num_things
    repaired = Counter[tuple[str, str]]()
    for hole in holes:
        repaired[hole.site, hole.of_kind] += hole.num_things * hole.repaired
    places = rows.select("site", "of_kind").rows()
    return rows.with_columns(
        num_missing=pl.Series([missing[place] for place in places], dtype=pl.Int64),
        num_repaired=pl.Series([repaired[place] for place in places], dtype=pl.Int64),
    )


def exposure(catalogs: Catalogs, name: str) -> list[str]:
    """In which ways everybody may read a site's store; none is as it should be.

    Raises:
        UnreachableError: If it cannot be asked.
    """
    store = catalogs.federation.store(name)
    found = findings(store.url, options=store.options, secrets=store.secrets)
    return [f"{one.found}: {one.remedy}" for one in found]


def retract(
    catalogs: Catalogs, ids: Iterable[str], *, reason: str, actor: str, purge: bool = False
) -> list[str]:
    """Take clips back for good at every site, then bring the catalogs of all sites up to date.

    Args:
        catalogs: All of them.
        ids: Recipe ids of the clips.
        reason: Why, for the audit.
        actor: Who asks.
        purge: Also empty the rows in old private batches.

    Returns:
        One line a clip, of what went and what stays; then what was done at each site. Sites that
        will follow later are named.

    Raises:
        UnknownKeyError: If no log has ever had one of the clips.
        StoreError: If a site that cities are at home at does not answer.
    """
    catalogs.may_write("take clips back")
    wanted = sorted(set(ids))
    before = _known_of(catalogs, wanted)
    done = take_back(catalogs.federation, wanted, reason=reason, actor=actor, purge=purge)
    told = [_gone_and_left(recipe, before[recipe], purge=purge) for recipe in wanted]
    told += [str(one) for one in done]
    for name in catalogs.federation.names:
        try:
            catalogs.follow(name, key=moment_key(f"retract/{name}"))
            if purge:  # what was made from the old batches still holds their rows
                catalogs.rebuild(name, actor=actor)
        except WorldloopError as error:
            told.append(f"{name}: its catalogs follow later, as they could not be reached: {error}")
        try:
            if catalogs.federation.backup(name) is not None:
                back_up(catalogs, name)
        except WorldloopError as error:
            told.append(
                f"{name}: its backup has nothing of them; the next one says so too: {error}"
            )
    return told


def _known_of(catalogs: Catalogs, recipes: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """What the logs hold of clips: by recipe and kind of rows, in which waves."""
    found: dict[str, dict[str, list[str]]] = {recipe: {} for recipe in recipes}
    for name in catalogs.federation.members:
        log = catalogs.federation.log(name)
        for kind in KINDS.values():
            if "recipe_id" not in kind.table.columns:
                continue
            rows = log.read(kind.name).filter(pl.col("recipe_id").is_in(recipes))
            waves = rows["wave"] if "wave" in rows.columns else pl.Series([""] * rows.height)
            for recipe, wave in zip(rows["recipe_id"], waves, strict=True):
                found[recipe].setdefault(kind.name, []).append(wave or "")
    return found


def _gone_and_left(recipe: str, kinds: Mapping[str, Sequence[str]], *, purge: bool) -> str:
    """What went of a clip and what stays of it, in one line.

    Example:
        >>> _gone_and_left("ab12", {"captions": ["w0001"], "release_clips": ["w0001"]}, purge=True)
        'ab12: gone: bytes, rows of captions, release_clips; stays: audit, ids, hashes, scores and costs in old batches, leaf hash in release w0001'
    """
    if not kinds:
        return f"{recipe}: gone before; stays: audit, ids, hashes, scores and costs in old batches"
    rows = ", ".join(sorted(kinds))
    left = ["audit", "ids, hashes, scores and costs in old batches"]
    if not purge:
        left.append("captions and vectors there too (--purge empties them)")
    left += [f"leaf hash in release {wave}" for wave in sorted(set(kinds.get("release_clips", ())))]
    return f"{recipe}: gone: bytes, rows of {rows}; stays: {', '.join(left)}"
