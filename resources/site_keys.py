"""Keys of a site: the private one at home, the public one at the coordinator.

The private key is a file of 64 hex digits that only its owner can read, or a secret of a vault
(`resources.credentials`). The public keys of a site are one JSON file at `layout.public_key_key`:
written once, and prolonged only by `SiteKeys.rotate`, whose new entry the previous key signs. A round is
verified with the key of its time.
"""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from resources.credentials import resolved
from resources.site_store import SiteStore
from resources.store_refusals import MissingObjectError
from worldloop import layout
from worldloop.errors import AccessError, MalformedRecordError, StoreError
from worldloop.federation.envelopes import read_record
from worldloop.federation.rounds import ROUND_KEY
from worldloop.seeds import canonical_json

KEYS_VERSION = 1
FIRST_ROUND = "r0000"
_FOLDER = "keys"
_SECRET = re.compile(r"[0-9a-f]{64}")
_OTHERS_MAY_READ = 0o077
_REPLACED = "next"  # the key that a rotation is about to take into use


class SiteKeys:
    """Private keys of the sites at home on this machine.

    Args:
        home: Folder of all local data; keys lie in its folder `keys`, never in a store.
        places: Where a site's private key is kept instead, e.g. `{"aws": "aws:worldloop/site-key"}`;
            the secret is 64 hex digits.
    """

    def __init__(self, home: str | Path, *, places: Mapping[str, str] | None = None):
        self.folder = Path(home) / _FOLDER
        self.places = dict(places or {})

    def private_key(self, site: str) -> Ed25519PrivateKey:
        """The site's private key; made at the first call.

        Raises:
            AccessError: If others than its owner can read the file.
            MalformedRecordError: If it is no key.
            StoreError: If the vault has no such secret.
        """
        if site in self.places:
            return _private(resolved({"key": self.places[site]})["key"], self.places[site])
        return _private(self._kept(f"{site}.key"), f"key of site {site!r}")

    def publish(self, store: SiteStore, site: str) -> Ed25519PublicKey:
        """Publish the site's public key at the coordinator, unless it stands there.

        Args:
            store: Of the coordinator.
            site: Whose key.

        Raises:
            StoreError: If another key stands.
        """
        mine = self.private_key(site).public_key()
        entry = {"from": FIRST_ROUND, "public": mine.public_bytes_raw().hex(), "signature": ""}
        key = layout.public_key_key(site)
        if store.create(key, _document(site, [entry])):
            return mine
        standing = public_keys(store, site)
        if standing[-1][1].public_bytes_raw() != mine.public_bytes_raw():
            raise StoreError(
                f"{key!r} holds another public key of site {site!r} than this machine's private key "
                "gives; expected the same. Bring the site's private key back to "
                f"{_FOLDER}/{site}.key, or rotate it where the old one is."
            )
        return mine

    def rotate(self, store: SiteStore, site: str, *, from_round: str) -> Ed25519PublicKey:
        """Give the site a new key, from a round on; older rounds are verified with the older key.

        It can be run again after a kill at any step.

        Args:
            store: Of the coordinator.
            site: Whose key.
            from_round: First round that is signed with the new key.

        Raises:
            StoreError: If the private key is kept in a vault, or no key is published yet.
            MalformedRecordError: If the round is none, or not after the present key's first.
        """
        if site in self.places:
            raise StoreError(
                f"The key of site {site!r} is kept at {self.places[site]!r}; expected a file of this "
                "machine. Rotate it in the vault and publish it with `append_key`."
            )
        new = _private(self._kept(f"{site}.{_REPLACED}"), f"next key of site {site!r}")
        append_key(store, site, self.private_key(site), new.public_key(), from_round=from_round)
        (self.folder / f"{site}.{_REPLACED}").replace(self.folder / f"{site}.key")
        return new.public_key()

    def round_secret(self, site: str, round_key: str) -> bytes:
        """32 random bytes that a site's masks of one round come from; made at the first call.

        They are kept over re-runs, and forgotten when the round is over (`forget_round_secret`), so that
        who gets hold of the machine later cannot unmask it.
        """
        return bytes.fromhex(self._kept(f"{site}.{_checked_round(round_key)}.mask"))

    def round_secrets(self) -> list[tuple[str, str]]:
        """Site and round of every secret that is kept for masks."""
        names = (path.name.split(".") for path in sorted(self.folder.glob("*.*.mask")))
        return [(site, round_key) for site, round_key, _ in names]

    def forget_round_secret(self, site: str, round_key: str) -> None:
        """Remove what the masks of a round come from; fine if it is gone."""
        (self.folder / f"{site}.{_checked_round(round_key)}.mask").unlink(missing_ok=True)

    def _kept(self, name: str) -> str:
        """64 hex digits in a file that only its owner can read; drawn if there is none."""
        if name.startswith(".") or "/" in name:
            raise ValueError(f"{name!r} cannot be the name of a key's file")
        path = self.folder / name
        if not path.exists():
            _create(path, secrets.token_hex(32))
        if path.stat().st_mode & _OTHERS_MAY_READ:
            raise AccessError(
                f"{path} can be read by others; expected a file for its owner alone. Run "
                f"chmod 600 {path}, and rotate the key if others have used this machine."
            )
        content = path.read_text(encoding="ascii", errors="replace").strip()
        if not _SECRET.fullmatch(content):
            raise _no_key(str(path), len(content))
        return content


def public_keys(store: SiteStore, site: str) -> list[tuple[str, Ed25519PublicKey]]:
    """First round and key of each of a site's public keys, oldest first, each signed by the one before.

    Raises:
        StoreError: If the site has published none.
        MalformedRecordError: If the file does not follow its format, or a signature does not hold.
    """
    entries = _entries(store, site)
    found = [(str(each["from"]), _public(str(each["public"]), site)) for each in entries]
    for (_, previous), (from_round, key), entry in zip(found, found[1:], entries[1:], strict=False):
        try:
            previous.verify(
                bytes.fromhex(str(entry["signature"])), _endorsed(site, from_round, key)
            )
        except (InvalidSignature, ValueError):
            raise MalformedRecordError(
                f"public keys of site {site!r}",
                f"a key from {from_round} on that the previous key did not sign",
                "a signature of the previous key",
                "Rotate keys at the site, with `SiteKeys.rotate`.",
            ) from None
    return found


def public_key(store: SiteStore, site: str, round_key: str) -> Ed25519PublicKey:
    """The key that a site's files of a round are verified with.

    Raises:
        StoreError: If the site has published none.
        MalformedRecordError: If the file does not follow its format, or a signature does not hold.
    """
    number = int(_checked_round(round_key)[1:])
    return [key for first, key in public_keys(store, site) if int(first[1:]) <= number][-1]


def append_key(
    store: SiteStore,
    site: str,
    old: Ed25519PrivateKey,
    new: Ed25519PublicKey,
    *,
    from_round: str,
) -> None:
    """Publish a site's next public key, signed by its present one; fine if that is done already.

    Args:
        store: Of the coordinator.
        site: Whose key.
        old: Its present private key.
        new: Its next public key.
        from_round: First round that the next one holds for.

    Raises:
        StoreError: If no key is published yet, or the present one is another.
        MalformedRecordError: If the round is none, or not after the present key's first.
    """
    known = public_keys(store, site)
    if known[-1][1].public_bytes_raw() == new.public_bytes_raw():
        return
    if known[-1][1].public_bytes_raw() != old.public_key().public_bytes_raw():
        raise StoreError(
            f"The present public key of site {site!r} is not that of the private key at hand; expected "
            "it, as the old key signs the new one. Rotate where the present key is."
        )
    if int(_checked_round(from_round)[1:]) <= int(known[-1][0][1:]):
        raise MalformedRecordError(
            "rotation", from_round, f"a round after {known[-1][0]}", "Take a later round."
        )
    signature = old.sign(_endorsed(site, from_round, new)).hex()
    entry = {"from": from_round, "public": new.public_bytes_raw().hex(), "signature": signature}
    store.put(layout.public_key_key(site), _document(site, [*_entries(store, site), entry]))


def _entries(store: SiteStore, site: str) -> list[Mapping[str, Any]]:
    what = f"public keys of site {site!r}"
    try:
        record = read_record(store.get(layout.public_key_key(site)), what=what)
    except MissingObjectError:
        raise StoreError(
            f"Site {site!r} has published no key; expected {layout.public_key_key(site)!r}. Run the "
            "round's `site_delta` there, which publishes it."
        ) from None
    entries: Any = record.get("keys")
    wanted = {"from", "public", "signature"}
    whole = isinstance(entries, list) and len(entries) > 0 and record.get("site") == site
    if not whole or not all(
        isinstance(each, dict) and each.keys() == wanted and ROUND_KEY.fullmatch(str(each["from"]))
        for each in entries
    ):
        raise MalformedRecordError(
            what, f"{len(str(record))} characters", "its site and keys", "Restore the file."
        )
    return list(entries)


def _document(site: str, entries: list[Mapping[str, Any]]) -> bytes:
    return canonical_json({"keys": entries, "site": site, "version": KEYS_VERSION})


def _endorsed(site: str, from_round: str, key: Ed25519PublicKey) -> bytes:
    return canonical_json(["worldloop next key", site, from_round, key.public_bytes_raw().hex()])


def _private(content: str, what: str) -> Ed25519PrivateKey:
    if not _SECRET.fullmatch(content.strip()):
        raise _no_key(what, len(content))
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(content.strip()))


def _public(content: str, site: str) -> Ed25519PublicKey:
    if not _SECRET.fullmatch(content):
        raise _no_key(f"public key of site {site!r}", len(content))
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(content))


def _no_key(what: str, length: int) -> MalformedRecordError:
    return MalformedRecordError(
        what, f"{length} characters", "64 hex digits", "Restore it from where it is kept safe."
    )


def _checked_round(round_key: str) -> str:
    if not ROUND_KEY.fullmatch(round_key):
        raise MalformedRecordError("round", round_key, "a key such as r0001", "Correct it.")
    return round_key


def _create(path: Path, content: str) -> None:
    """Write a file whole or not at all; of several processes at once the first one's stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent)  # for its owner alone
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)  # unlike a rename, it leaves a file that stands
    finally:
        Path(beside).unlink()
