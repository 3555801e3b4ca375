"""Base forms of English words, by WordNet's rules and word lists, or by the rules alone.

The published guardrail folder holds WordNet as nltk's data. We read its files ourselves, from the
folder or the zip: nltk refuses files behind symbolic links, which is how download caches store
them (NVIDIA/TensorRT-LLM#19504), and needs its own loader to be pointed at the folder.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from worldloop.errors import JobFailedError

# Detachment rules of WordNet's morphy (7WN, "morphy - discussion of WordNet's morphological
# processing"): ending, replacement.
_NOUN_RULES = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
_VERB_RULES = (
    ("s", ""),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
)
RULES: Mapping[str, tuple[tuple[str, str], ...]] = {"noun": _NOUN_RULES, "verb": _VERB_RULES}
_MIN_STEM = 3


@dataclass(frozen=True)
class WordNetLemmas:
    """Base forms by WordNet: its exceptions, then its rules where the result is a word.

    Attributes:
        words: Known lemmas by part of speech.
        exceptions: Irregular forms by part of speech.
    """

    words: Mapping[str, frozenset[str]]
    exceptions: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @classmethod
    def load(cls, nltk_data: Path) -> Self:
        """Read WordNet out of a folder of nltk data.

        Args:
            nltk_data: Folder with `corpora/wordnet/` or `corpora/wordnet.zip`.

        Raises:
            JobFailedError: If it is not there or cannot be read.
        """
        try:
            files = _wordnet_files(nltk_data / "corpora")
            return cls(
                {pos: frozenset(_index_words(files[f"index.{pos}"])) for pos in RULES},
                {pos: _exceptions(files[f"{pos}.exc"]) for pos in RULES},
            )
        except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise JobFailedError(
                f"The block list needs WordNet in {str(nltk_data)!r} (corpora/wordnet with index.noun, "
                f"noun.exc, index.verb, verb.exc): {error}. Download the guardrail folder again: "
                "worldloop models download --guardrail"
            ) from error

    def __call__(self, word: str) -> set[str]:
        """Base forms of a word in lower case, without the word itself."""
        found: set[str] = set()
        for pos, rules in RULES.items():
            irregular = self.exceptions.get(pos, {}).get(word)
            forms = irregular or [form for form in _detach(word, rules) if form in self.words[pos]]
            found.update(forms)
        return found - {word}


class RuleLemmas:
    """Base forms by the rules alone, for our own list: more forms than there are words, and harmless.

    Example:
        >>> sorted(RuleLemmas()("stabbing"))
        ['stab', 'stabb', 'stabbe']
    """

    def __call__(self, word: str) -> set[str]:
        """Possible base forms of a word in lower case, without the word itself."""
        found = {form for rules in RULES.values() for form in _detach(word, rules)}
        found |= {form[:-1] for form in found if len(form) > 3 and form[-1] == form[-2]}
        return {form for form in found if len(form) >= _MIN_STEM} - {word}


def _detach(word: str, rules: Iterable[tuple[str, str]]) -> Iterator[str]:
    for ending, replacement in rules:
        if word.endswith(ending) and len(word) - len(ending) + len(replacement) >= _MIN_STEM:
            yield word[: len(word) - len(ending)] + replacement


def _wordnet_files(corpora: Path) -> dict[str, str]:
    """Text of the files of WordNet by name."""
    folder, archive = corpora / "wordnet", corpora / "wordnet.zip"
    names = [name for pos in RULES for name in (f"index.{pos}", f"{pos}.exc")]
    if folder.is_dir():
        return {name: (folder / name).read_text(encoding="utf-8") for name in names}
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as members:
        return {name: members.read(f"wordnet/{name}").decode("utf-8") for name in names}


def _index_words(text: str) -> Iterator[str]:
    """Lemmas of an index file: its licence is indented, its lemmas are not."""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            yield line.split(" ", 1)[0].replace("_", " ")


def _exceptions(text: str) -> dict[str, tuple[str, ...]]:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return {form: tuple(lemmas) for form, *lemmas in rows}
