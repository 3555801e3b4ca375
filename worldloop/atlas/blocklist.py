"""Names that no text of ours may say: real brands, operators and transit networks, kept as hashes.

`data/blocked_names.bin` has six bytes a name and no name in clear: CRC-32 of its words, then two bytes
of their BLAKE2. A run of words that is no name is taken for one with probability (number of names) / 2**48.
Common words and the atlas's own are no names here; `bake_blocklist.py` says which were left out.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np

from worldloop.atlas.csv_tables import DATA
from worldloop.errors import MalformedRecordError

FILE = DATA / "blocked_names.bin"
MOST_WORDS = 5
FEWEST_LETTERS = 3
HASH_BYTES = 6
_APOSTROPHES = re.compile("['\u2019\u02bc]")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Letters and digits; vowel signs and points of other scripts are no letters to `\w`, but part of words.
_WORD = re.compile(r"(?:[^\W_]|[\u0591-\u05c7\u064b-\u065f\u0900-\u109f\u1780-\u17ff])+")
_ACCENTS = re.compile("[\u0300-\u036f]")


def blocked_names(text: str, *, among: Path = FILE) -> tuple[str, ...]:
    """The names in a text, as `words_of` writes them; at one place in the text the longest.

    Args:
        text: Anything that people or a model may read.
        among: The block list.

    Example:
        >>> blocked_names("a plain bench near the gate")
        ()
    """
    starts, hashes = _hashes(among)
    words = words_of(text)
    coded = [word.encode() + b" " for word in words]
    found = []
    for first in range(len(coded)):
        crc, longest = 0, 0
        for length, word in enumerate(coded[first : first + MOST_WORDS], start=1):
            crc = crc32(word, crc)
            if crc in starts and name_hash(words[first : first + length]) in hashes:
                longest = length
        if longest:
            found.append(" ".join(words[first : first + longest]))
    return tuple(found)


def words_of(text: str) -> list[str]:
    """The words of a text without case, accents, apostrophes and other punctuation.

    Example:
        >>> words_of("Café de l'Étoile, No. 7")
        ['cafe', 'de', 'letoile', 'no', '7']
    """
    text = _APOSTROPHES.sub("", text)
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    return _WORD.findall(plain)


def name_hash(words: Sequence[str]) -> int:
    """The 48 bits that stand for a run of words."""
    coded = b"".join([word.encode() + b" " for word in words])
    tail = hashlib.blake2b(coded, digest_size=HASH_BYTES - 4).digest()
    return crc32(coded) << 16 | int.from_bytes(tail, "big")


def write_hashes(path: Path, hashes: Sequence[int]) -> None:
    """Write a block list; the same names in any order give the same bytes."""
    path.write_bytes(b"".join(one.to_bytes(HASH_BYTES, "big") for one in sorted(set(hashes))))


@cache
def _hashes(path: Path) -> tuple[frozenset[int], frozenset[int]]:
    """CRCs and whole hashes of the names of a block list."""
    data = path.read_bytes()
    if len(data) % HASH_BYTES:
        raise MalformedRecordError(
            path.name,
            f"{len(data)} bytes",
            f"a multiple of {HASH_BYTES}",
            "Bake it again with worldloop.atlas.bake_blocklist.",
        )
    cells = np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES).astype(np.uint64)
    whole = cells @ (np.uint64(256) ** np.arange(HASH_BYTES - 1, -1, -1, dtype=np.uint64))
    return frozenset((whole >> np.uint64(16)).tolist()), frozenset(whole.tolist())
