"""Hashes of the files of a projection, as they were when first seen; a changed file shows by them.

Lance and Iceberg write a file once and never change it, but their names say nothing of the bytes.
The first run that sees a file reads it and notes its hash; later runs read it again only if its size
or time has changed, or in its turn. What was damaged before it was first seen stays unknown here.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from resources.log_replicas import read_if_there
from resources.site_store import SiteStore
from worldloop.layout import projection_key
from worldloop.reconciliation import is_due
from worldloop.seeds import canonical_json

_AT_ONCE = 4  # files that are read together


class Seal(NamedTuple):
    """What was seen of a file.

    Attributes:
        size_bytes: Its size.
        modified_at: When it was written, ISO 8601, UTC.
        sha256: Of its bytes.
    """

    size_bytes: int
    modified_at: str
    sha256: str


def changed_files(
    notes: SiteStore,
    name: str,
    store: SiteStore,
    keys: Mapping[str, bool],
    *,
    share: float = 0.0,
    turn: int = 0,
) -> dict[str, str]:
    """Files of a projection that are gone, or are not what they were; each with what is found.

    Args:
        notes: The site's store, where the hashes are noted.
        name: Of the projection.
        store: Where its files lie.
        keys: Every file of the projection that is there or should be, and whether its newest rows
            need it. Of the others it is noticed only once that one is gone: maybe by right.
        share: Share of the files that are read even if they look unchanged, 0 to 1.
        turn: Which share.
    """
    folders = {key.split("/", 1)[0] for key in keys}
    listed = {f.key: f for folder in sorted(folders) for f in store.scan(folder)}
    known, seals, changed = _read_seals(notes, name), dict[str, Seal](), {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        suspects = []
        for key in sorted(keys):
            found, seal = listed.get(key), known.get(key)
            if found is None:
                if seal or keys[key]:
                    changed[key] = "nothing"
                continue
            same = seal and seal[:2] == (found.size_bytes, found.modified_at.isoformat())
            if seal and same and not is_due(key, share=share, turn=turn):
                seals[key] = seal
            else:
                suspects.append(found)
        contents = pool.map(partial(read_if_there, store), [found.key for found in suspects])
        for found, content in zip(suspects, contents, strict=True):
            digest, seal = sha256(content or b"").hexdigest(), known.get(found.key)
            if seal and seal.sha256 != digest:
                changed[found.key], seals[found.key] = "other bytes", seal
            else:
                seals[found.key] = Seal(found.size_bytes, found.modified_at.isoformat(), digest)
    if seals != known:
        notes.put(_key(name), canonical_json({key: list(seal) for key, seal in seals.items()}))
    return changed


def forget_files(store: SiteStore, name: str) -> None:
    """Begin anew, after a projection was made again."""
    store.put(_key(name), b"{}")


def _read_seals(store: SiteStore, name: str) -> Mapping[str, Seal]:
    """What was noted; nothing if the note itself is damaged, as it can be made again."""
    try:
        return {
            k: Seal(*v) for k, v in json.loads(read_if_there(store, _key(name)) or b"{}").items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def _key(name: str) -> str:
    return projection_key(f"{name}-files")
