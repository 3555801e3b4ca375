"""Bake the block list of names from the name-suggestion-index of OpenStreetMap.

Run by hand:

    npm install --prefix DIR name-suggestion-index@8.0.20260918 word-list@4.1.0
    python -m worldloop.atlas.bake_blocklist --npm-dir DIR

It writes `data/blocked_names.bin`; the same packages and tables give the same bytes. A name is left
out if it is longer than five words or shorter than three letters, if it is one English word, or if all of
its words are words of the atlas itself (`city hospital`): English ones, words of signs, names of places.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.atlas.blocklist import (
    FEWEST_LETTERS,
    FILE,
    MOST_WORDS,
    name_hash,
    words_of,
    write_hashes,
)
from worldloop.atlas.rules.names import phrases

INDEX = "node_modules/name-suggestion-index/dist/json/nsi.min.json"
WORD_LIST = "node_modules/word-list/words.txt"
TREES = ("brands/", "operators/", "transit/")  # the rest is flags
TAGS = ("name", "brand", "operator", "network")
NOT_NAMES = ("wikidata", "wikipedia", "type", "guid", "short", "website", "country")
COMMON = frozenset(  # function words, and the hours of prose, which the tables happen to lack
    {
        *("a", "an", "and", "at", "by", "de", "for", "in", "la", "of", "on", "the", "to"),
        *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        *("eleven", "twelve", "oclock"),
    }
)


def main() -> None:
    """Bake the block list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm-dir", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--to", type=Path, default=FILE, help="file to write")
    arguments = parser.parse_args()
    names = blocked_words(arguments.npm_dir, load_atlas())
    write_hashes(arguments.to, [name_hash(words) for words in names])


def blocked_words(npm_dir: Path, atlas: Atlas) -> list[tuple[str, ...]]:
    """The names to block as tuples of words, each once, in order.

    Args:
        npm_dir: Folder with `node_modules`.
        atlas: Whose own words are no names.
    """
    english = frozenset((npm_dir / WORD_LIST).read_text(encoding="utf-8").split())
    own = own_words(atlas, english)
    names = {tuple(words_of(name)) for name in read_names(npm_dir)}
    return sorted(
        words
        for words in names
        if is_name(words)
        and not own.issuperset(words)
        and not (len(words) == 1 and words[0] in english)
    )


def is_name(words: tuple[str, ...]) -> bool:
    """Whether words are long enough to be told from others, and short enough to be found."""
    letters = sum(character.isalpha() for word in words for character in word)
    return len(words) <= MOST_WORDS and letters >= FEWEST_LETTERS


def own_words(atlas: Atlas, english: frozenset[str]) -> frozenset[str]:
    """Words of the atlas's phrases that are English, and all of its signs, place names and holidays.

    A phrase that names a brand does not make the brand one of our words: it is no English word.
    """
    said = (word for _, text in phrases(atlas) for word in words_of(text) if word in english)
    places = (
        *(name for city in atlas.cities.values() for name in (city.name, city.endonym, city.key)),
        *(country.name for country in atlas.countries.values()),
        *(language.name for language in atlas.languages.values()),
        *(holiday.name for holiday in atlas.holidays),
        *(alias for aliases in atlas.aliases.values() for alias in aliases),
        *(sign.text for sign in atlas.signs),
    )
    return COMMON.union(said, _split(places))


def read_names(npm_dir: Path) -> Iterator[str]:
    """Every spelling of every name of the index."""
    index = json.loads((npm_dir / INDEX).read_text(encoding="utf-8"))["nsi"]
    for tree, branch in index.items():
        for item in branch["items"] if tree.startswith(TREES) else ():
            yield item["displayName"]
            for tag, value in item["tags"].items():
                head, *rest = tag.split(":")
                if head in TAGS and not set(rest) & set(NOT_NAMES):
                    yield value


def _split(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from words_of(text.replace("_", " "))


if __name__ == "__main__":
    main()
