"""The block list: words and phrases that no prompt may hold, found in disguise too.

A list is a folder as the published `blocklist/`: files of one entry a line in `custom/` (found with
lemmas, look-alike characters and pieces joined), `exact_match/` (whole words, and one letter more)
and `whitelist/` (words and phrases that are all right), and `nltk_data/` with WordNet. What is
found follows nvidia-cosmos/cosmos-predict1 (cosmos_predict1/auxiliary/guardrail/blocklist/blocklist.py,
commit 4ed35fa) and the package better-profanity 0.7.0 that it uses, and goes beyond: letters spaced
out, letters repeated, other alphabets' look-alikes, verbs' lemmas. Negative prompts are never
checked: they name what is not wanted, and the published ones hold such words
(NVIDIA/TensorRT-LLM#17523).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gpu_jobs.cosmos_generate.guardrails.lemmas import RuleLemmas, WordNetLemmas
from gpu_jobs.cosmos_generate.guardrails.verdicts import Verdict
from worldloop.cosmos.guards import BLOCKLIST, CATEGORIES, STARTER_BLOCKLIST
from worldloop.errors import JobFailedError

STARTER_DIR = Path(__file__).parent / "starter_blocklist"
PARTIAL_MIN_CHARS = 6  # .../blocklist/blocklist.py:36, commit 4ed35fa
_JOINED_PIECES = 3
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")
_LONGEST_SPACED = 60  # letters; longer runs of single letters are looked at in part
_MIN_SPACED = 4

# What may stand for a letter: better-profanity 0.7.0 (better_profanity.py, CHARS_MAPPING), and some more.
_LOOK_ALIKES = {
    "a": "@*4",
    "i": "*l1!|",
    "o": "*0@",
    "u": "*v",
    "v": "*u",
    "l": "1|",
    "e": "*3€",
    "s": "$5",
    "t": "7+",
    "b": "8",
    "g": "9",
    "z": "2",
}
_SIGNS = "@*$!|+€"
_PLAIN = str.maketrans("@4013$57!|+89€", "aaoiesstiltbge")
_BUCKET = str.maketrans(
    dict.fromkeys("aiouvel@*4103!|€", "V") | dict.fromkeys("s$5", "S") | dict.fromkeys("t7+", "T")
    | dict.fromkeys("b8", "B") | dict.fromkeys("g9", "G") | dict.fromkeys("z2", "Z")
)  # fmt: skip
_CONFUSABLES = str.maketrans("авекмнорстухіјѕԁɡοαερτυικν", "abekmhopctyxijsdgoaeptuikv")
_SEPARATORS = re.compile(r"[^\w@*$!|+€]+|_+")
_WORDY = re.compile(r"[^\W_]|[*@$]")
_REPEATED = re.compile(r"(.)\1{2,}")


@dataclass(frozen=True)
class Piece:
    """A word of a prompt.

    Attributes:
        text: Normalised.
        glued: Whether a sign, not a space, parts it from the piece before.
    """

    text: str
    glued: bool


@dataclass
class Blocklist:
    """A loaded block list.

    Attributes:
        name: `blocklist`, or `starter_blocklist` for our own.
        lemmas: Base forms of a word.
        joins_words: Whether neighbouring words are tried as one word, as better-profanity does; if
            not, only single letters and pieces parted by signs are.
        parts: No networks.
    """

    name: str
    lemmas: Callable[[str], set[str]]
    joins_words: bool
    parts: dict[str, Any] = field(default_factory=dict)
    _entries: dict[str, str] = field(default_factory=dict, repr=False)
    _exact: dict[str, str] = field(default_factory=dict, repr=False)
    _whitelist: set[str] = field(default_factory=set, repr=False)
    _buckets: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _joined: dict[str, str] = field(default_factory=dict, repr=False)
    _unspaced: list[str] = field(default_factory=list, repr=False)
    _longest: int = 1

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a list in the published layout.

        Raises:
            JobFailedError: If the folder, its lists or WordNet are not there.
        """
        from gpu_jobs.cosmos_generate.guardrails.guards import not_installed

        if not (folder / "custom").is_dir():
            raise not_installed(BLOCKLIST, folder / "custom", "lists of words, one entry a line")
        lemmas = WordNetLemmas.load(folder / "nltk_data")
        return cls(BLOCKLIST, lemmas, joins_words=True)._read(folder)

    @classmethod
    def starter(cls, folder: Path = STARTER_DIR) -> Self:
        """Our own short list. It never counts as the published one."""
        return cls(STARTER_BLOCKLIST, RuleLemmas(), joins_words=False)._read(folder)

    def check(self, prompt: str) -> Verdict:
        """Whether the prompt holds an entry, in one of its disguises."""
        pieces = self._less_whitelist(split_pieces(prompt))
        for category, entry in self._found(pieces):
            return Verdict(
                False, self.name, category, f"The block list has {entry!r}.", (self.name,)
            )
        return Verdict(True, ran=(self.name,))

    def _read(self, folder: Path) -> Self:
        self._whitelist = {entry for _, entry in _read_lists(folder / "whitelist")}
        for attribute, sub in ((self._entries, "custom"), (self._exact, "exact_match")):
            for stem, entry in _read_lists(folder / sub):
                if entry not in self._whitelist:
                    attribute.setdefault(entry, stem if stem in CATEGORIES else "other")
        if not self._entries and not self._exact:
            raise JobFailedError(
                f"The block list in {str(folder)!r} is empty; it would let everything pass. Download "
                "it again: worldloop models download --guardrail"
            )
        buckets = defaultdict(list)
        for entry in self._entries:
            buckets[entry.translate(_BUCKET)].append(entry)
        self._buckets = dict(buckets)
        self._joined = {entry.replace(" ", ""): entry for entry in self._entries if " " in entry}
        self._unspaced = [entry for entry in self._entries if _is_unspaced(entry)]
        lengths = [entry.count(" ") + 1 for entry in (*self._entries, *self._exact)]
        self._longest = max(lengths, default=1)
        return self

    def _less_whitelist(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Pieces without those that a word or phrase of the whitelist covers; a gap stays between."""
        longest = max((entry.count(" ") + 1 for entry in self._whitelist), default=0)
        covered: set[int] = set()
        for length in range(1, longest + 1):
            for start in range(len(pieces) - length + 1):
                if " ".join(p.text for p in pieces[start : start + length]) in self._whitelist:
                    covered.update(range(start, start + length))
        return [Piece("", False) if i in covered else piece for i, piece in enumerate(pieces)]

    def _found(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, str]]:
        """Categories and entries that the pieces hold."""
        for piece in pieces:
            for entry in self._unspaced:
                if entry in piece.text:
                    yield self._entries[entry], entry
        for word in _spaced_letters(pieces):
            if word in self._joined:
                yield self._entries[self._joined[word]], self._joined[word]
        for candidate in self._candidates(pieces):
            if candidate in self._entries:
                yield self._entries[candidate], candidate
            for form in self._forms(candidate):
                for entry in self._buckets.get(form.translate(_BUCKET), ()):
                    if _looks_like(form, entry):
                        yield self._entries[entry], entry
                if form in self._exact:
                    yield self._exact[form], form
            yield from self._with_a_letter_more(candidate)

    def _with_a_letter_more(self, candidate: str) -> Iterator[tuple[str, str]]:
        """Exact entries that differ from the candidate by one letter put in."""
        if len(candidate) <= PARTIAL_MIN_CHARS:
            return
        for i in range(len(candidate)):
            shorter = candidate[:i] + candidate[i + 1 :]
            if shorter in self._exact:
                yield self._exact[shorter], shorter

    def _candidates(self, pieces: Sequence[Piece]) -> Iterator[str]:
        """Words, phrases, and what pieces make together."""
        for length in range(1, min(self._longest, len(pieces)) + 1):
            for start in range(len(pieces) - length + 1):
                window = [piece.text for piece in pieces[start : start + length]]
                if all(window):
                    yield " ".join(window)
        for length in range(2, _JOINED_PIECES + 1):
            for start in range(len(pieces) - length + 1):
                run = pieces[start : start + length]
                if all(piece.text for piece in run) and self._may_join(run):
                    yield "".join(piece.text for piece in run)
        yield from _spaced_letters(pieces)

    def _may_join(self, pieces: Sequence[Piece]) -> bool:
        """Whether pieces are tried as one word."""
        if self.joins_words or all(piece.glued for piece in pieces[1:]):
            return True
        return any(len(piece.text) == 1 and piece.text not in "ai" for piece in pieces)

    def _forms(self, candidate: str) -> set[str]:
        """The candidate, without repeated letters and signs, and the lemmas of all that."""
        if not any(char.isalpha() for char in candidate):
            return set()  # a number may be an entry, but it is not a word in disguise
        bare = {candidate, candidate.strip(_SIGNS)}
        bare |= {_REPEATED.sub(r"\1", form) for form in bare} | {
            _REPEATED.sub(r"\1\1", form) for form in bare
        }
        plain = {form.translate(_PLAIN) for form in bare if not form.isalpha()}
        plain |= {form.replace("1", "l") for form in bare}
        forms = {form for form in bare | plain if form}
        return forms | {lemma for form in forms for lemma in self._phrase_lemmas(form)}

    def _phrase_lemmas(self, phrase: str) -> Iterator[str]:
        words = phrase.split(" ")
        for i, word in enumerate(words):
            for lemma in self.lemmas(word):
                yield " ".join([*words[:i], lemma, *words[i + 1 :]])
        if len(words) > 1:
            yield " ".join(min({word, *self.lemmas(word)}, key=len) for word in words)


def normalise(text: str) -> str:
    """Lower case, one form of each character, no invisible ones, look-alike letters as Latin ones.

    Example:
        >>> normalise("Tr\u00c1m\u200b")
        'tram'
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))
    return unicodedata.normalize("NFC", kept).translate(_CONFUSABLES)


def split_pieces(text: str) -> list[Piece]:
    """Words of a text, with what parted them."""
    pieces: list[Piece] = []
    for chunk in normalise(text).split():
        parts = [part.rstrip("!|+") for part in _SEPARATORS.split(chunk)]
        words = [part for part in parts if part and _WORDY.search(part)]
        pieces.extend(Piece(word, i > 0) for i, word in enumerate(words))
    return pieces


def _looks_like(form: str, entry: str) -> bool:
    return len(form) == len(entry) and all(
        a == b or a in _LOOK_ALIKES.get(b, "") for a, b in zip(form, entry, strict=True)
    )


def _is_list(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _is_unspaced(entry: str) -> bool:
    """Whether an entry is of a script that puts no spaces around words, or ties endings to them."""
    return unicodedata.name(entry[0], "").startswith(_UNSPACED_SCRIPTS)


def _spaced_letters(pieces: Sequence[Piece]) -> Iterator[str]:
    """Words that single letters in a row spell, such as "w o r d"."""
    run: list[str] = []
    for text in [*(piece.text for piece in pieces), ""]:
        if len(text) == 1:
            run.append(text)
            continue
        if len(run) >= _MIN_SPACED - 1:
            word = "".join(run[:_LONGEST_SPACED])
            yield word
            for start in range(len(word)):
                for end in range(start + _MIN_SPACED, len(word) + 1):
                    yield word[start:end]
        run = []


def _read_lists(folder: Path) -> Iterator[tuple[str, str]]:
    """(Stem of the file, entry) of each line of each file; a list that cannot be read is an error."""
    if not folder.is_dir():
        return
    for path in sorted(path for path in folder.iterdir() if _is_list(path)):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise JobFailedError(
                f"The block list {str(path)!r} cannot be read: {error}. Download it again: worldloop "
                "models download --guardrail"
            ) from error
        for line in lines:
            entry = " ".join(piece.text for piece in split_pieces(line))
            if entry:
                yield path.stem, entry
