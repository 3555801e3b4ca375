"""Where a site's optimizer stands after a round, kept at the site until its next training of the same line.

As with residuals (`resources.residuals`) the state belongs to one delta, whose hash it carries; it is written before
that delta is sent, and the sending is the commit. So rounds that were refused, and deltas that were never sent or not
used, are rolled back with it.
"""

import hashlib
import json
from pathlib import Path

from safetensors.numpy import save

from resources.residuals import sent_in
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays, check_alike, read_adapter
from worldloop.federation.moments import kind_of, untouched
from worldloop.federation.rounds import RoundPlan

_MARK = "belongs_to"  # one entry alone: safetensors writes several in no order


def keep_moments(own: SiteStore, plan: RoundPlan, delta_file: bytes, moments: Path) -> int:
    """Write where the optimizer stands after a training, before its delta is sent.

    Args:
        own: The site's store.
        plan: Of the round.
        delta_file: The file that is about to be sent.
        moments: What the training left, 8 bytes a trained number; not there: nothing was trained.

    Returns:
        Its size in bytes; 0 if there is nothing to keep.
    """
    key = layout.moments_key(plan.round)
    if not moments.exists():
        own.delete(key)  # of an attempt that was killed
        return 0
    found = read_adapter(moments)
    mark = f"{hashlib.sha256(delta_file).hexdigest()} {kind_of(plan)}"
    content: bytes = save({name: found[name] for name in sorted(found)}, {_MARK: mark})
    own.put(key, content)
    return len(content)


def carried_moments(
    own: SiteStore, coordinator: SiteStore, plan: RoundPlan, site: str, *, adapter: Arrays
) -> tuple[Arrays | None, str]:
    """Where the site's optimizer goes on from in a round.

    Args:
        own: The site's store.
        coordinator: Where plans and adapters are.
        plan: Of the round.
        site: Whose.
        adapter: What is started from.

    Returns:
        The state, or None for an optimizer begun anew; and why a state was dropped, empty if none was.
    """
    sent = sent_in(coordinator, plan.base.adapter, site)
    if sent is None or not own.exists(key := layout.moments_key(sent.round)):
        return None, ""
    content = own.get(key)
    try:
        found, mark = read_adapter(content), _mark_of(content)
        delta_sha256, _, kind = mark.partition(" ")
        if delta_sha256 != sent.sha256:
            return None, f"that of {sent.round} belongs to a delta that was not sent"
        if kind != kind_of(plan):
            return None, f"base, rank, alpha or targets are not those of {sent.round}"
        check_alike(found, untouched(adapter))
    except MalformedRecordError as error:
        return None, f"that of {sent.round} does not fit: {error}"
    return found, ""


def _mark_of(content: bytes) -> str:
    """The entry of a safetensors file that `read_adapter` has read: its header's length, 8 bytes, then the header."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return str(header.get("__metadata__", {}).get(_MARK, ""))
