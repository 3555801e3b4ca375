"""A store in a cloud, looked over before this process writes its first byte into it."""

import threading
from pathlib import Path

from pydantic import Field

from resources.bucket_guard import refuse_public
from resources.site_store import SiteStore

_Admitted = tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
_admitted: set[_Admitted] = set()
_lock = threading.Lock()


class GuardedStore(SiteStore):
    """Refuses to write where everybody may read, or where create-if-absent is ignored.

    It is asked once a process and store, at the first write: reading costs nothing more. Lance and
    Iceberg write by clients of their own, always under a lease, which is written here before.

    Attributes:
        site: Whose store it is, for messages.
        root: URL of the site's store; folders of it (`within`) are admitted together.
    """

    site: str = Field(min_length=1)
    root: str = Field(min_length=1)

    def put(self, key: str, content: bytes) -> None:
        """Write an object, replacing the one that is there.

        Raises:
            AccessError: If everybody may reach the store, or nobody can say.
            StoreError: If the store cannot carry the log, or as `SiteStore.put` does.
        """
        self._admit()
        super().put(key, content)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one; raises as `put` does."""
        self._admit()
        return super().create(key, content)

    def put_file(self, key: str, path: Path) -> int:
        """Write a local file; raises as `put` does."""
        self._admit()
        return super().put_file(key, path)

    def _admit(self) -> None:
        mine = (self.root, tuple(self.options.items()), tuple(self.secrets.items()))
        if mine in _admitted:
            return
        with _lock:  # others of this process wait for the answer instead of asking too
            if mine in _admitted:
                return
            refuse_public(self.site, self.root, self.options, self.secrets)
            SiteStore(url=self.root, options=self.options, secrets=self.secrets).probe()
            _admitted.add(mine)


def forget_admissions() -> None:
    """Ask every store again before the next write."""
    with _lock:
        _admitted.clear()
