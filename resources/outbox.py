"""The outbox: the one way from a site to the coordinator, through the allow list.

What was sent stands: the first file of a name, round and site wins. Files lie under
`layout.sent_key` in the coordinator's store.
"""

import hashlib

from resources.site_store import SiteStore
from resources.store_refusals import MissingObjectError
from worldloop import layout
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.federation.envelopes import read_unverified
from worldloop.federation.outbox import DELTA, RECEIPT, SCORES, check_outgoing


class Outbox:
    """Sends a site's files and reads them for the coordinator.

    Args:
        coordinator: Store of the coordinator.
    """

    def __init__(self, coordinator: SiteStore):
        self.coordinator = coordinator

    def send(
        self, round_key: str, site: str, name: str, content: bytes, *, replace: bool = False
    ) -> bool:
        """Send a file; the same bytes again are fine.

        Args:
            round_key: The round.
            site: Who sends.
            name: Of the file, one of `worldloop.federation.outbox.NAMES`.
            content: Its bytes.
            replace: Whether it takes the place of another that stands, while nothing was made of it:
                a delta or receipt before the adapter, scores before the evaluation. What belongs to secure
                aggregation is never replaced, as two masked deltas of a site would tell their difference.

        Returns:
            Whether anything was written.

        Raises:
            MalformedRecordError: If it may not leave the site.
            StoreError: If another content stands and may not be replaced.
        """
        check_outgoing(name, content, round_key=round_key, site=site)
        key = layout.sent_key(round_key, site, name)
        standing = self.sent(round_key, site, name)
        if standing == content:
            return False
        if standing is None and self.coordinator.create(key, content):
            return True
        standing = standing or self.coordinator.get(key)
        if standing == content:
            return False
        self._check_replaceable(round_key, name, standing, content, replace=replace)
        self.coordinator.put(key, content)
        return True

    def sent(self, round_key: str, site: str, name: str, *, max_bytes: int = 0) -> bytes | None:
        """What a site sent; None if nothing of that name.

        Args:
            round_key: The round.
            site: Who sent it.
            name: Of the file.
            max_bytes: A larger file is refused before it is read; 0: any.

        Raises:
            MalformedRecordError: If it is larger.
        """
        key = layout.sent_key(round_key, site, name)
        try:
            if max_bytes and (size_bytes := self.coordinator.size(key)) > max_bytes:
                raise MalformedRecordError(
                    f"{name} of site {site!r}",
                    f"{size_bytes} bytes",
                    f"at most {max_bytes}",
                    "Train with the rank and targets that the round plans.",
                )
            return self.coordinator.get(key)
        except MissingObjectError:
            return None

    def senders(self, round_key: str, name: str) -> list[str]:
        """Sites that sent a file of this name, in alphabetical order."""
        listed = self.coordinator.list(f"{layout.ROUNDS}/{round_key}/sites")
        parts = [key.split("/") for key, _ in listed]
        return sorted(each[3] for each in parts if len(each) == 5 and each[4] == name)

    def _check_replaceable(
        self, round_key: str, name: str, standing: bytes, content: bytes, *, replace: bool
    ) -> None:
        adapter = [layout.adapter_key(round_key, n) for n in ("participants.json", "adapter.json")]
        made = {DELTA: adapter, RECEIPT: adapter, SCORES: [layout.evaluation_key(round_key)]}
        masked = name == DELTA and any(read_unverified(c)[0].masked for c in (standing, content))
        if masked or name not in made:
            remedy = "It belongs to secure aggregation and is never replaced; open a new round."
        elif not replace:
            remedy = "The first stays; send it with replace=True if it is wrong."
        elif any(self.coordinator.exists(key) for key in made[name]):
            remedy = "The round went on with it; open a new round."
        else:
            return
        raise StoreError(
            f"{name!r} of round {round_key!r} stands with SHA-256 "
            f"{hashlib.sha256(standing).hexdigest()[:12]}; expected the same bytes, found "
            f"{hashlib.sha256(content).hexdigest()[:12]}. {remedy}"
        )
