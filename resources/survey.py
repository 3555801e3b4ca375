"""One look over a site: how deep it goes, what it has found, and the one way in which it mends."""

from dataclasses import dataclass, field

from resources.log_replicas import read_if_there
from resources.site_store import SiteStore
from resources.site_view import SiteView
from worldloop.errors import StoreError
from worldloop.reconciliation import Finding, is_due


@dataclass
class Survey:
    """What the checks of one reconciliation share.

    Attributes:
        view: The site that is looked over.
        repair: Whether to repair; else it is only said what would be done.
        deep: Share of the objects that are read although nothing seems wrong, 0 to 1.
        turn: Which share.
        findings: What is not as it should be, repaired or not.
        expected: (place, origin, kind) to the objects or rows that should be there.
        unreachable: Places that did not answer, each with their words.
    """

    view: SiteView
    repair: bool
    deep: float
    turn: int
    findings: list[Finding] = field(default_factory=list)
    expected: dict[tuple[str, str, str], int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Name of the site that is looked over."""
        return self.view.site.name

    def expect(self, place: str, kind: str, num_things: int) -> None:
        """Note that things should be at a place."""
        at = (place, self.origin, kind)
        self.expected[at] = self.expected.get(at, 0) + num_things

    def is_due(self, key: str) -> bool:
        """Whether it is an object's turn to be read."""
        return is_due(key, share=self.deep, turn=self.turn)

    def put(self, finding: Finding, store: SiteStore, content: bytes, how: str) -> Finding:
        """Write what is proven right in the place of what is missing or proven wrong; read it again."""
        if not self.repair:
            return finding.unhealed(f"Would be put back {how}")
        try:
            if finding.what == "missing":
                store.create(finding.key, content)
            else:
                store.put(finding.key, content)
            found = read_if_there(store, finding.key)
        except StoreError as error:
            return finding.unhealed(str(error))
        if found == content:
            return finding.healed(f"put back {how}")
        return finding.unhealed("It was put back and still reads otherwise: check the store")
