"""How a rule is written: a function that yields a sentence for every row that breaks it.

The name of the function is the name of the rule. A sentence says which row it is, what is wrong
and what would be right.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

from worldloop.atlas.atlas import Atlas

AtlasRule = Callable[[Atlas], Iterator[str]]
FileRule = Callable[[Atlas, Path], Iterator[str]]

RULES: dict[str, FileRule] = {}
"""Every rule by name."""


def rule(judge: AtlasRule) -> AtlasRule:
    """Register a rule over the tables of an atlas."""
    RULES[judge.__name__] = lambda atlas, folder: judge(atlas)
    return judge


def file_rule(judge: FileRule) -> FileRule:
    """Register a rule that also looks at the folder of the tables."""
    RULES[judge.__name__] = judge
    return judge


def doubled(keys: Iterable[Hashable]) -> list[Hashable]:
    """Keys that stand more than once."""
    return [key for key, count in Counter(keys).items() if count > 1]


def listed(keys: Iterable[str]) -> str:
    """Keys as they stand in a message."""
    return ", ".join(repr(key) for key in keys)


def is_known_source(atlas: Atlas, source: str) -> bool:
    """Whether `sources.toml` has a source, or `pages.csv` the page of `page:<id>`.

    What follows a colon in other sources names the row in them: `cldr:🏥`, `override:country:XK`.
    """
    base, _, row = source.partition(":")
    return row in atlas.pages if base == "page" else base in atlas.sources


def source_sentence(source: str, where: str) -> str:
    """What is said about a fact whose source nobody knows."""
    return (
        f"{where} has source {source!r}; expected a key of sources.toml or 'page:<id>' with an id "
        "of pages.csv."
    )
