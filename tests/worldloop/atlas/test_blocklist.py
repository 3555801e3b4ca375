import os
import time
from pathlib import Path

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.bake_blocklist import INDEX, blocked_words, is_name, own_words
from worldloop.atlas.blocklist import (
    FILE,
    HASH_BYTES,
    blocked_names,
    name_hash,
    words_of,
    write_hashes,
)
from worldloop.atlas.rules.names import phrases
from worldloop.errors import MalformedRecordError

ATLAS = load_atlas()
MADE_UP = (
    "Quibblemart",
    "Café Zumbrella",
    "O'Plonk & Daughters",
    "Kettle Of Fish Express Line",
    "Ξυλοκόπος",
)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A block list of names that nobody has."""
    path = tmp_path_factory.mktemp("names") / "names.bin"
    write_hashes(path, [name_hash(words_of(name)) for name in MADE_UP])
    return path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a queue outside the QuibbleMart on the corner", ("quibblemart",)),
        ("cafe zumbrella, and a Quibblemart!", ("cafe zumbrella", "quibblemart")),
        ("the vans of O\u2019Plonk and Daughters", ()),
        ("the vans of O\u2019Plonk, Daughters", ("oplonk daughters",)),
        ("the Kettle of Fish Express Line leaves", ("kettle of fish express line",)),
        ("Ξυλοκοπος", ("ξυλοκοποσ",)),
        ("a quibble about a mart", ()),
        ("", ()),
    ],
)
def test_names_are_found_whatever_their_case_accents_and_points(text, names, made_up):
    assert blocked_names(text, among=made_up) == names


def test_the_longest_of_two_names_is_told(tmp_path):
    write_hashes(tmp_path / "x", [name_hash(["zig"]), name_hash(["zig", "zag"])])
    assert blocked_names("from zig zag to zig", among=tmp_path / "x") == ("zig zag", "zig")


def test_a_list_has_no_name_in_clear(made_up):
    data = made_up.read_bytes()
    assert len(data) == len(MADE_UP) * HASH_BYTES
    assert not any(name.lower().encode() in data.lower() for name in MADE_UP)


def test_the_order_of_names_does_not_matter(tmp_path):
    write_hashes(tmp_path / "a", [5, 3, 3])
    write_hashes(tmp_path / "b", [3, 5])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_cut_list_is_refused(tmp_path):
    (tmp_path / "cut.bin").write_bytes(bytes(HASH_BYTES + 1))
    with pytest.raises(MalformedRecordError, match=r"7 bytes.*multiple of 6"):
        blocked_names("anything", among=tmp_path / "cut.bin")


def test_the_list_is_small_and_rarely_wrong():
    size = FILE.stat().st_size
    assert 30_000 * HASH_BYTES < size < 350_000
    assert size / HASH_BYTES / 2**48 < 1e-9  # chance that a run of words is mistaken for a name


def test_nothing_of_the_atlas_is_a_name():
    texts = [
        *(text for _, text in phrases(ATLAS)),
        *(name for city in ATLAS.cities.values() for name in (city.name, city.endonym)),
        *(country.name for country in ATLAS.countries.values()),
        *(holiday.name for holiday in ATLAS.holidays),
        *(sign.text for sign in ATLAS.signs),
    ]
    assert {text: blocked_names(text) for text in texts if blocked_names(text)} == {}


def test_short_texts_are_searched_fast():
    texts = [text for _, text in phrases(ATLAS)]
    start = time.process_time()
    for text in texts:
        blocked_names(text)
    assert len(texts) / (time.process_time() - start) > 20_000


@pytest.mark.parametrize(
    ("words", "kept"),
    [(("zx",), False), (("zx", "y"), True), (("1", "2", "3"), False), (("a",) * 6, False)],
)
def test_a_name_is_neither_too_short_nor_too_long(words, kept):
    assert is_name(words) == kept


def test_a_brand_in_a_phrase_does_not_become_a_word_of_the_atlas():
    words = own_words(ATLAS, frozenset({"hospital"}))
    assert "hospital" in words
    assert "tokyo" in words  # a place
    assert "escalator" not in words  # said, but not in this English


@pytest.mark.slow
def test_names_of_the_package_are_found(tmp_path):
    npm_dir = Path(os.environ.get("WORLDLOOP_NPM_DIR", ""))
    if not (npm_dir / INDEX).is_file():
        pytest.skip("needs WORLDLOOP_NPM_DIR, see bake_blocklist.py")
    names = [" ".join(words) for words in blocked_words(npm_dir, ATLAS)]
    found = [name for name in names if name in blocked_names(f"7 {name}")]
    # Not all: words that came into the atlas since the list was baked are no names any more.
    assert len(found) > 0.99 * len(names)
