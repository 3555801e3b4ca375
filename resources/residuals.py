"""What codecs lost of a site's deltas, kept at the site until its next delta of the same line.

Exactly once: a residual belongs to one delta, whose hash stands before it. It is written before that
delta is sent, and the sending is the commit. The next round takes the residual of the newest delta
that is part of what it starts from: rounds that were refused, and deltas that were not used, are
rolled back with their residuals. A residual whose delta is not the one that was sent is not used.
"""

import hashlib
from typing import NamedTuple

from resources.round_files import read_adapter_record, read_round_plan
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.federation.adapters import Arrays, adapter_bytes, read_adapter
from worldloop.federation.rounds import RoundPlan

_HASH_BYTES = 64  # SHA-256 of the delta's file, hexadecimal, then a line break


class SentDelta(NamedTuple):
    """A delta that an adapter is made of.

    Attributes:
        round: Round that it was sent in, under which its residual lies.
        sha256: Of its file.
    """

    round: str
    sha256: str


def keep_residual(
    own: SiteStore, round_key: str, delta_file: bytes, residual: Arrays | None
) -> int:
    """Write what was lost of a delta, before the delta is sent.

    Args:
        own: The site's store.
        round_key: Round of the delta.
        delta_file: The file that is about to be sent.
        residual: What the codec lost; None or empty: nothing.

    Returns:
        Its size in bytes; 0 if there is nothing to keep.
    """
    key = layout.residual_key(round_key)
    if not residual:
        own.delete(key)  # of an attempt that was killed
        return 0
    content = hashlib.sha256(delta_file).hexdigest().encode() + b"\n" + adapter_bytes(residual)
    own.put(key, content)
    return len(content)


def carried_residual(
    own: SiteStore, coordinator: SiteStore, plan: RoundPlan, site: str
) -> Arrays | None:
    """What is to be added to the site's delta of a round; None if nothing is.

    Args:
        own: The site's store.
        coordinator: Where plans and adapters are.
        plan: Of the round that the next delta is for.
        site: Whose delta.

    Raises:
        MalformedRecordError: If the residual's file is damaged.
    """
    newest = sent_in(coordinator, plan.base.adapter, site)
    return _read(own, *newest) if newest else None


def sent_in(coordinator: SiteStore, base: str, site: str) -> SentDelta | None:
    """The newest delta of a site in an adapter, or in what that goes on from; None if there is none.

    Args:
        coordinator: Where plans and adapters are.
        base: Round of the adapter; empty: none.
        site: Whose delta.
    """
    while base:
        record = read_adapter_record(coordinator, base)
        mine = record.of(site) if record else None
        if mine is not None and mine.status == "accepted":
            return SentDelta(f"r{int(base[1:]) - mine.staleness:04d}", mine.content_sha256)
        base = read_round_plan(coordinator, base).base.adapter
    return None


def _read(own: SiteStore, round_key: str, delta_sha256: str) -> Arrays | None:
    key = layout.residual_key(round_key)
    if not own.exists(key):
        return None
    content = own.get(key)
    belongs = content[:_HASH_BYTES].decode("ascii", "replace") == delta_sha256
    return read_adapter(content[_HASH_BYTES + 1 :]) if belongs else None
