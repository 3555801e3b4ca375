"""How many cities have each sign word in their first language, and what stands there instead.

    python -m worldloop.atlas.sign_coverage

prints a row per word: the cities whose first language has it, by source; those where the second language
stands in, those where English does; and the first languages that lack it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.atlas.records import is_english


@dataclass(frozen=True)
class WordCoverage:
    """How one sign word stands in the cities of an atlas.

    Attributes:
        word: English key of the word.
        first: Cities whose first language has the word, by kind of source (`cldr`, `osm`, `page`, ...).
        second: Cities where another of their languages stands in.
        english: Cities where none of their languages has it, so that English stands there.
        lacking: First languages that lack the word, with their cities, most cities first.
    """

    word: str
    first: dict[str, int]
    second: int
    english: int
    lacking: tuple[tuple[str, int], ...]

    @property
    def share(self) -> float:
        """Part of the cities whose first language has the word."""
        native = sum(self.first.values())
        return native / max(1, native + self.second + self.english)


def main() -> None:
    """Print the table."""
    for line in coverage_lines(load_atlas()):
        print(line)  # noqa: T201 - the program's answer


def coverage_lines(atlas: Atlas) -> Iterator[str]:
    """The table as text, the least covered words last."""
    table = sorted(word_coverage(atlas), key=lambda row: (-row.share, row.word))
    kinds = sorted({kind for row in table for kind in row.first})
    heads = "".join(f"{kind:>9}" for kind in kinds)
    yield f"{'word':<18}{'share':>7}{heads}{'by 2nd':>9}{'by en':>9}  first languages that lack it"
    for row in table:
        counts = "".join(f"{row.first.get(kind, 0):>9}" for kind in kinds)
        lacking = " ".join(f"{tag}:{cities}" for tag, cities in row.lacking)
        yield f"{row.word:<18}{row.share:>7.1%}{counts}{row.second:>9}{row.english:>9}  {lacking}".rstrip()


def word_coverage(atlas: Atlas) -> list[WordCoverage]:
    """Coverage of every sign word of an atlas, in the order of its words."""
    sources = {(sign.language, sign.word): sign.source.partition(":")[0] for sign in atlas.signs}
    cities = list(atlas.cities.values())
    return [_coverage(word, [city.languages for city in cities], sources) for word in atlas.words]


def _coverage(
    word: str, cities: list[tuple[str, ...]], sources: dict[tuple[str, str], str]
) -> WordCoverage:
    """Coverage of one word over the languages of each city."""
    first: Counter[str] = Counter()
    lacking: Counter[str] = Counter()
    second = english = 0
    for languages in cities:
        if (languages[0], word) in sources:
            first[sources[languages[0], word]] += 1
            continue
        lacking[languages[0]] += 1
        others = [tag for tag in languages[1:] if (tag, word) in sources and not is_english(tag)]
        second += bool(others)
        english += not others
    return WordCoverage(word, dict(first), second, english, tuple(lacking.most_common()))


if __name__ == "__main__":
    main()
