"""What travels between the coordinator and a site that share no store: files of a round, by their keys.

To the site go its plan, what it starts from or is to measure, and which clips were released, without
captions. Back come the files of the outbox and the site's public key, nothing else. At the site they
lie where a shared store would have them, so that the same assets work with them.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from orchestration.site_agent import DELTA_STEP, SCORES_STEP
from resources.outbox import Outbox
from resources.round_files import (
    open_rounds,
    planned_rounds,
    read_adapter_record,
    read_round_plan,
    read_sent,
    trial_waves,
)
from resources.site_keys import public_key
from resources.site_store import SiteStore
from resources.tables import read
from worldloop import layout
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.federation.envelopes import check_header, open_envelope, open_record
from worldloop.federation.outbox import DELTA, RECEIPT, SCORES
from worldloop.federation.rounds import RoundPlan, rounds_apart
from worldloop.records import MANIFEST, table_bytes

Files = Mapping[str, bytes]

SENT: Mapping[str, tuple[str, ...]] = {DELTA_STEP: (RECEIPT, DELTA), SCORES_STEP: (SCORES,)}
"""What a step sends; the last one is the commit."""
_MAY_COME = re.compile(
    r"rounds/r\d{4,9}/(plan|outcome|adapter/adapter|samples/all/samples)\.json"
    r"|rounds/r\d{4,9}/adapter/adapter\.safetensors"
    r"|rounds/r\d{4,9}/samples/(before|after|reference)/\d{3}\.mp4"
    r"|releases/w\d{4,9}/manifest\.parquet",
    re.ASCII,
)


def files_for(store: SiteStore, plan: RoundPlan, step: str) -> dict[str, bytes]:
    """What sites need for a step of a round; the same for each of them.

    Args:
        store: The coordinator's.
        plan: Of the round.
        step: `delta` or `scores`.

    Raises:
        StoreError: If a file is gone.
    """
    earlier, waves = _line_of(store, plan), list(plan.waves)
    adapters = [plan.base.adapter] if plan.base.adapter else []
    samples: list[str] = []
    if step == SCORES_STEP:
        earlier = sorted({*earlier, *_ended_before(store, plan)})
        adapters.append(plan.round)
        waves = trial_waves(store, plan)
        samples = _samples(store, plan)
    keys = [layout.outcome_key(each) for each in earlier]
    keys += [layout.round_plan_key(each) for each in (*earlier, plan.round)]
    keys += [layout.adapter_key(each, "adapter.json") for each in (*earlier, *adapters)]
    keys += [layout.adapter_key(each, "adapter.safetensors") for each in adapters]
    keys += samples
    there = [key for key in dict.fromkeys(keys) if store.exists(key)]
    files = dict(store.get_many(there))
    for wave in waves:
        key = layout.manifest_key(wave)
        rows = read(store, MANIFEST, key).filter(pl.col("site").is_in(plan.sites))
        files[key] = table_bytes(MANIFEST, rows.with_columns(caption=pl.lit("")))
    return files


def lay_in(store: SiteStore, folder: Path) -> None:
    """Put files of the coordinator where the site's assets look for them.

    What stands stays: rounds never change, and a release that the site knows itself has captions.

    Args:
        store: That the site has in the coordinator's place.
        folder: Of files by their keys.

    Raises:
        MalformedRecordError: If a key is none that may come.
        StoreError: If a file of a round stands with other bytes.
    """
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    files = {key: path for key, path in paths.items() if path.is_file()}
    check_keys(files)
    for key in sorted(files, key=lambda each: each.endswith("/plan.json")):  # plans last
        content = files[key].read_bytes()
        if store.create(key, content) or not key.startswith(f"{layout.ROUNDS}/"):
            continue
        if store.get(key) != content:
            raise StoreError(
                f"{key!r} stands at this site with other bytes than the coordinator's; expected the same, "
                "as rounds never change. Is it another coordinator? Give it a home of its own."
            )


def check_keys(keys: Iterable[str]) -> None:
    """Refuse files that a coordinator has no reason to send.

    Raises:
        MalformedRecordError: Naming the key.
    """
    for key in keys:
        if not _MAY_COME.fullmatch(key):
            raise MalformedRecordError(
                "file of the coordinator",
                key[:80],
                "a plan, adapter, sample or manifest",
                "Ask who runs it.",
            )


def hand_out(store: SiteStore, round_key: str, site: str, step: str, folder: Path) -> None:
    """Copy what a site sent in a step, and its public key; nothing if it sent nothing.

    Args:
        store: That the site has in the coordinator's place.
        round_key: Of the round.
        site: Who sent.
        step: `delta` or `scores`.
        folder: Gets the files by their keys.
    """
    sent = {
        layout.sent_key(round_key, site, name): read_sent(store, round_key, site, name)
        for name in SENT[step]
    }
    if sent[layout.sent_key(round_key, site, SENT[step][-1])] is None:
        return
    sent[layout.public_key_key(site)] = store.get(layout.public_key_key(site))
    for key, content in sent.items():
        if content is not None:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(content)


def accept(store: SiteStore, plan: RoundPlan, site: str, step: str, files: Files) -> bool:
    """Take what a site sent: the signature first, then through the outbox, so that all after it is as ever.

    A site's first public key is believed, as with a common store; SuperNode authentication makes sure
    whose it is.

    Args:
        store: The coordinator's.
        plan: Of the round.
        site: Who says that it sent them.
        step: `delta` or `scores`.
        files: By key.

    Returns:
        Whether the step of this site is done now.

    Raises:
        MalformedRecordError: If anything is not as it should be; then nothing is written but a key.
        StoreError: If others stand.
    """
    names = {layout.sent_key(plan.round, site, name): name for name in SENT[step]}
    key_key = layout.public_key_key(site)
    if site not in plan.sites or not set(files) <= {*names, key_key}:
        raise MalformedRecordError(
            f"answer of site {site[:24]!r} to {plan.round}",
            sorted(key[:80] for key in files),
            f"of one of {plan.sites}: {sorted(names.values())} and its public key",
            "Look at the site's app.",
        )
    commit = layout.sent_key(plan.round, site, SENT[step][-1])
    if commit not in files:
        return False
    if key_key in files:
        store.create(key_key, files[key_key])
    _verify(store, plan, site, step, files[commit])
    outbox = Outbox(store)
    for key, name in names.items():
        if key in files:
            outbox.send(plan.round, site, name, files[key], replace=name == RECEIPT)
    return True


def _verify(store: SiteStore, plan: RoundPlan, site: str, step: str, content: bytes) -> None:
    """Signature and plan, so that nobody else's file takes the site's place."""
    key = public_key(store, site, plan.round)
    if step == SCORES_STEP:
        open_record(content, key, what=SCORES)
        return
    header, _ = open_envelope(content, key)
    check_header(header, plan, site, start_sha256="")


def _line_of(store: SiteStore, plan: RoundPlan) -> list[str]:
    """Rounds that this one goes on from, newest first: a site's residual belongs to one of them."""
    line, base = [], plan.base.adapter
    while base and read_adapter_record(store, base) is not None:
        line.append(base)
        base = read_round_plan(store, base).base.adapter
    return line


def _ended_before(store: SiteStore, plan: RoundPlan) -> list[str]:
    """Earlier rounds of the same model: candidates are measured on what they left out, too."""
    ended = set(planned_rounds(store)) - set(open_rounds(store))
    earlier = [key for key in ended if rounds_apart(key, plan.round) > 0]
    return [key for key in earlier if read_round_plan(store, key).base.model == plan.base.model]


def _samples(store: SiteStore, plan: RoundPlan) -> list[str]:
    """Samples that stand whole; without them the site makes its own."""
    listed = [key for key, _ in store.list(f"{layout.ROUNDS}/{plan.round}/samples")]
    whole = layout.sample_key(plan.round, "all", "samples.json") in listed
    return [key for key in listed if _MAY_COME.fullmatch(key)] if whole else []
