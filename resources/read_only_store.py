"""A store for people who may look and not touch: reads as any other, refuses every write."""

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from resources.site_store import SiteStore
from worldloop.errors import AccessError


class ReadOnlyStore(SiteStore):
    """The store of the read-only role.

    It guards against mistakes of this process; against everybody else guard the bucket's permissions.
    """

    def put(self, key: str, content: bytes) -> None:
        """Refused."""
        refuse_to_write(f"write {key!r} into {self.url!r}")

    def create(self, key: str, content: bytes) -> bool:
        """Refused."""
        refuse_to_write(f"create {key!r} in {self.url!r}")

    def put_file(self, key: str, path: Path) -> int:
        """Refused."""
        refuse_to_write(f"write {key!r} into {self.url!r}")

    def delete(self, key: str) -> None:
        """Refused."""
        refuse_to_write(f"delete {key!r} from {self.url!r}")

    def delete_many(self, keys: Iterable[str]) -> None:
        """Refused."""
        refuse_to_write(f"delete objects from {self.url!r}")


def refuse_to_write(what: str) -> NoReturn:
    """Say that this process may only read.

    Raises:
        AccessError: Always.
    """
    raise AccessError(
        f"Asked to {what} with WORLDLOOP_READ_ONLY set; expected only reads. Unset the variable "
        "if you may write, or ask somebody who may."
    )
