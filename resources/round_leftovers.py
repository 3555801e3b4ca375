"""What ended rounds leave behind and nothing needs any more, at the sites and on this machine.

Samples, residuals, optimizers' states, footage and scratch.

Never among it: plans, deltas, adapters, scores, evaluations, outcomes and the registry, which audits and
restarts read, and keys. Of a round without an outcome nothing goes, whatever its age.
"""

import fcntl
import re
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from resources.checkpoint_registry import CheckpointRegistry, promoted_in_turn
from resources.federated_store import sites_of
from resources.residuals import sent_in
from resources.round_files import planned_rounds, read_round_plan
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.federation.rounds import ROUND_KEY
from worldloop.retention import Removal

_FOOTAGE_KEEP = timedelta(days=7)  # held-out clips and their encodings serve the next round too
_CLIPS = re.compile(r"rounds/[^/]+/samples/(before|after|reference)/[^/]+")
_CARRIED = re.compile(
    rf"{layout.FEDERATION}/(?:residuals/([^/]+)\.bin|moments/([^/]+)\.safetensors)"
)


@dataclass(frozen=True)
class RoundsNow:
    """Which rounds there are, and what is still needed of them.

    Attributes:
        planned: All, oldest first.
        ended: When each of those that are over got its outcome.
        published: Rounds with a checkpoint in the registry.
        carried: (site, round) of the residuals and optimizers' states that a next delta may take.
    """

    planned: tuple[str, ...]
    ended: dict[str, datetime]
    published: frozenset[str]
    carried: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, store: SiteStore, *, keep_rounds: int) -> "RoundsNow":
        """As the coordinator's store has it.

        Args:
            store: The coordinator's, or the one of all sites.
            keep_rounds: So many of the newest rounds, and of the checkpoints that a line can be taken
                back to, keep their residuals and states.
        """
        planned = planned_rounds(store)
        found = {item.key: item.modified_at for item in store.scan(layout.ROUNDS)}
        ended = {key: at for key in planned if (at := found.get(layout.outcome_key(key)))}
        registry = CheckpointRegistry(store=store, home="")
        lines = registry.lines()
        starts = {
            *(
                base
                for line in lines
                for base in promoted_in_turn(registry.history(line))[-keep_rounds:]
            ),
            *(registry.shadow(line) for line in lines),
            *(read_round_plan(store, key).base.adapter for key in planned if key not in ended),
        }
        kept = {
            (site, key) for site in sites_of(store) for key in _recent(store, planned, keep_rounds)
        }
        for base in starts & set(planned):
            for site in read_round_plan(store, base).sites:
                sent = sent_in(store, base, site)
                kept |= {(site, sent.round)} if sent else set()
        published = frozenset(key for line in lines for key in registry.rounds(line))
        return cls(tuple(planned), ended, published, frozenset(kept))

    def is_over(self, key: str, *, since: datetime) -> bool:
        """Whether a round had its outcome by then."""
        ended_at = self.ended.get(key)
        return ended_at is not None and ended_at < since


def stored_leftovers(
    store: SiteStore, rounds: RoundsNow, *, now: datetime, keep: timedelta, keep_rounds: int
) -> list[Removal]:
    """Objects of the stores that may go.

    Sample clips of ended rounds go but for the newest and for those with a checkpoint; the sheet and the
    record of what was made stay, as do all scores. Residuals and
    optimizers' states go whose delta no round can go on from.
    """
    newest = set(rounds.planned[-keep_rounds:])
    samples = [
        Removal(item.key, item.size_bytes, "a sample clip of a round that was not promoted")
        for item in store.scan(layout.ROUNDS)
        if _CLIPS.fullmatch(item.key)
        and (key := item.key.split("/")[1]) not in newest | rounds.published
        and rounds.is_over(key, since=now - keep)
    ]
    return samples + [
        replace(
            Removal(item.key, item.size_bytes, "no delta goes on from what was kept of this one"),
            site=site,
        )
        for site, own in sites_of(store).items()
        for kind in ("residuals", "moments")
        for item in own.scan(f"{layout.FEDERATION}/{kind}")
        if (found := _CARRIED.fullmatch(item.key))
        and (key := found[1] or found[2])
        and (site, key) not in rounds.carried
        and rounds.is_over(key, since=now - keep)
    ]


def local_leftovers(
    home: Path, rounds: RoundsNow, *, now: datetime, keep: timedelta
) -> Iterator[Removal]:
    """Files and folders of this machine that may go: footage that was staged to train on, and what trainers left."""
    if set(rounds.planned) <= set(rounds.ended):
        yield from _footage(home / "training", now - max(keep, _FOOTAGE_KEEP))
    yield from _of_trainers(home / "trainers", now - keep)


def scratch_leftovers(
    folders: Iterable[Path], locks: Path, rounds: RoundsNow, *, now: datetime, keep: timedelta
) -> Iterator[Removal]:
    """Scratch of rounds that are over and that no run works for.

    Args:
        folders: `staging/<round>/<part>`.
        locks: Folder of the locks of shards.
        rounds: As they stand.
        now: The moment.
        keep: Since when a round must be over.
    """
    for folder in folders:
        key = folder.parent.name
        if rounds.is_over(key, since=now - keep) and not is_held(locks.glob(f"{key}.*")):
            yield Removal(str(folder), size_of(folder), f"round {key} is over")


def is_of_a_round(folder: Path) -> bool:
    """Whether a folder of scratch is one of a round."""
    return ROUND_KEY.fullmatch(folder.parent.name) is not None


def is_held(locks: Iterable[Path]) -> bool:
    """Whether a process holds one of some locks."""
    for path in locks:
        with path.open("r") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path, *path.rglob("*")]
    return sum(one.lstat().st_size for one in files if one.is_file())


def _recent(store: SiteStore, planned: Collection[str], keep_rounds: int) -> list[str]:
    """Rounds whose deltas a later round may still take, late as they are."""
    if not planned:
        return []
    stale = max(read_round_plan(store, key).terms.max_staleness for key in planned)
    return list(planned)[-max(keep_rounds, stale + 1) :]


def _footage(root: Path, before: datetime) -> Iterator[Removal]:
    """Staged footage of sites for which nothing was staged lately; it comes from the packs again."""
    for site in sorted(path for path in root.glob("*") if path.is_dir()):
        used = [_modified_at(path) for path in site.glob("*/clips.jsonl")]
        if not used or max(used) > before or is_held(site.glob(".*.lock")):
            continue
        for folder in sorted(path for path in site.iterdir() if path.is_dir()):
            why = "no round is open, and none has used it for a week"
            yield Removal(str(folder), size_of(folder), why)


def _of_trainers(folder: Path, before: datetime) -> Iterator[Removal]:
    """Logs and sockets of trainers that have ended; locks stay, as somebody may be about to take them."""
    for path in sorted(folder.glob("*")):
        is_log, is_socket = ".log" in path.suffixes, path.is_socket()
        if (is_log or is_socket) and _modified_at(path) < before and not _is_working(path):
            yield Removal(str(path), path.lstat().st_size, "its trainer has ended")


def _is_working(path: Path) -> bool:
    if is_held(path.parent.glob(f"{path.name.split('.')[0]}.lock")):
        return True
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        return connection.connect_ex(str(path)) == 0


def _modified_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
