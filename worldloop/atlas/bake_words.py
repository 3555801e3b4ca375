"""Bake the sign words: what the packages call a hospital, an exit or a lion in every language.

Run by hand after a change of `inputs/languages.csv`, `inputs/sign_words.csv`, `inputs/sign_strips.csv`
or `inputs/curated_signs.csv`:

    pip install "worldloop[atlas]" -c constraints.txt
    npm install --prefix DIR cldr-annotations-full@48.2.0 @openstreetmap/id-tagging-schema@7.2.0
    python -m worldloop.atlas.bake_words --npm-dir DIR

It writes `languages.csv` and `signs.csv`; `bake_signs.py` then draws the texts. No text comes from a
translator, human or machine, who is not named: it is a cell of a package, or a page that was opened.

Keys of cells: `cldr:<emoji>` is the short name of an emoji; `osm:<preset>` is the name of a preset, `#1`
after it the second of two alternatives (`Entrance / Exit`); `osm:<field>=<option>` is an option of a field.
English, the atlas's own language, falls back to the word as `sign_words.csv` writes it: source `english`.
"""

import argparse
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldloop.atlas.csv_tables import DATA, read_rows, write_rows
from worldloop.atlas.records import is_english
from worldloop.errors import MalformedRecordError

Row = dict[str, str]
ALTERNATIVES = re.compile(r"\s*[/\uff0f|;,\u060c\u3001\u30fb]\s*")
BRACKETS = re.compile(r"\s*[(\uff08\[][^)\uff09\]]*[)\uff09\]]\s*")
INVISIBLE = re.compile(r"[\u200b\u200e\u200f\u00ad\ufeff]")
APOSTROPHES = re.compile("['\u02bc]")
DOTTED_I = frozenset({"az", "tr"})  # languages whose capital of i keeps its dot


def main() -> None:
    """Bake both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm-dir", type=Path, required=True, help="folder with node_modules")
    modules = parser.parse_args().npm_dir / "node_modules"
    languages = read_rows(DATA / "inputs/languages.csv")
    write_rows(
        DATA / "languages.csv",
        ("tag", "name", "endonym", "script", "direction"),
        [language_row(row["tag"]) for row in languages],
    )
    write_rows(
        DATA / "signs.csv",
        ("language", "word", "text", "source"),
        [
            sign
            for row in languages
            for sign in sign_rows(row["tag"], read_cells(modules, row), like=row["like"])
        ],
    )


def language_row(tag: str) -> Row:
    """Name, script and direction of a language, from CLDR."""
    from babel import Locale
    from babel.core import get_global

    locale = Locale.parse(tag.replace("-", "_"))
    likely = get_global("likely_subtags").get(tag.split("-")[0], "")
    script = locale.script or likely.split("_")[1]
    # A sign word needs no region in its name: "Chinese", not "Chinese (Hong Kong)"; the script says more.
    name = Locale.parse(tag.split("-")[0]).get_display_name("en")
    return {
        "tag": tag,
        "name": name or tag,
        "endonym": locale.get_language_name() or tag,
        "script": script,
        "direction": locale.text_direction,
    }


class Cells:
    """What the packages say in one language: a label a key, and its synonyms.

    Attributes:
        labels: Names by key, as the packages write them.
        synonyms: Further words of a key: keywords of an emoji, aliases and terms of a preset.
    """

    def __init__(self, labels: Mapping[str, str], synonyms: Mapping[str, Sequence[str]]) -> None:
        self.labels = labels
        self.synonyms = synonyms

    def label(self, key: str) -> str:
        """The name of a key without notes in brackets; of alternatives the first, or that of `#n`."""
        name, _, part = key.partition("#")
        parts = alternatives(self.labels.get(name, ""))
        return parts[int(part or 0)] if int(part or 0) < len(parts) else ""

    def hold(self, key: str, text: str) -> bool:
        """Whether a cell has a text as its name, as one of the name's alternatives or as a synonym."""
        name = key.partition("#")[0]
        said = [self.labels.get(name, ""), *self.synonyms.get(name, ())]
        return _plain(text) in {
            _plain(part) for cell in said for part in (cell, *alternatives(cell))
        }


def alternatives(label: str) -> list[str]:
    """A package's label cut at slashes and commas, without notes in brackets.

    Example:
        >>> alternatives("wejście / wyjście (ogólne)")
        ['wejście', 'wyjście']
    """
    return [part for part in ALTERNATIVES.split(BRACKETS.sub(" ", label).strip()) if part]


def _plain(text: str) -> str:
    """A text for comparison: one normal form, no case, one kind of apostrophe, nothing invisible."""
    text = APOSTROPHES.sub("\u2019", INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text).casefold().strip()


def read_cells(modules: Path, language: Row) -> Cells:
    """Every cell of both packages in one language; of several locales the first that has a cell wins."""
    labels: dict[str, str] = {}
    synonyms: dict[str, Sequence[str]] = {}
    for emoji, entry in _emojis(modules / "cldr-annotations-full", language["cldr_locale"]).items():
        labels[f"cldr:{emoji}"] = entry.get("tts", [""])[0]
        synonyms[f"cldr:{emoji}"] = entry.get("default", ())
    for locale in reversed(language["osm_locale"].split()):
        schema = _schema(modules / "@openstreetmap/id-tagging-schema", locale)
        for preset, entry in schema.get("presets", {}).items():
            key = f"osm:{preset}"
            labels[key] = entry.get("name") or labels.get(key, "")
            said = (*entry.get("aliases", ()), *entry.get("terms", ()))
            synonyms[key] = (*said, *synonyms.get(key, ()))
        for field, entry in schema.get("fields", {}).items():
            for option, says in entry.get("options", {}).items():
                key = f"osm:{field}={option}"
                title = says if isinstance(says, str) else says.get("title", "")
                labels[key] = title or labels.get(key, "")
    return Cells(labels, synonyms)


def _emojis(package: Path, locales: str) -> dict[str, dict[str, list[str]]]:
    """Names and keywords of emoji in a locale and, beneath them, in those that it inherits from."""
    entries: dict[str, dict[str, list[str]]] = {}
    for locale in reversed(inheritance(locales)):
        path = package / "annotations" / locale / "annotations.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))["annotations"]["annotations"]
            for emoji, entry in found.items():
                below = entries.get(emoji, {})
                keywords = [*entry.get("default", ()), *below.get("default", ())]
                entries[emoji] = {**below, **entry, "default": keywords}
    return entries


def inheritance(locales: str) -> list[str]:
    """Locales in the order in which they are asked: each before what its tag begins with.

    Args:
        locales: Names between blanks; CLDR's own parents stand there where the tag does not say them.

    Example:
        >>> inheritance("en-GB en-001"), inheritance("zh-Hant-HK")
        (['en-GB', 'en-001', 'en'], ['zh-Hant-HK', 'zh-Hant', 'zh'])
    """
    named = [
        "-".join(parts[:size])
        for parts in (locale.split("-") for locale in locales.split())
        for size in range(len(parts), 0, -1)
    ]
    return [name for place, name in enumerate(named) if name not in named[place + 1 :]]


def _schema(package: Path, locale: str) -> dict[str, Any]:
    """Translated presets and fields of the tagging schema."""
    path = package / "dist/translations" / f"{locale}.json"
    if not locale or not path.exists():
        return {}
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[locale].get("presets", {})
    return schema


def sign_rows(tag: str, cells: Cells, *, like: str = "") -> Iterator[Row]:
    """The words of one language; a curated text comes first, and an empty one bars the packages'.

    Args:
        tag: BCP 47 tag.
        cells: What the packages say in it.
        like: Language whose curated rows and strips hold for this one too, where it has none of its own.

    Raises:
        MalformedRecordError: If a curated text is not in the package cell that it cites.
    """
    rows = read_rows(DATA / "inputs/curated_signs.csv")
    curated = {row["word"]: row for name in (like, tag) for row in rows if row["language"] == name}
    strips = [
        row for row in read_rows(DATA / "inputs/sign_strips.csv") if row["language"] in (like, tag)
    ]
    for word in read_rows(DATA / "inputs/sign_words.csv"):
        if word["word"] in curated:
            row = curated[word["word"]]
            text, source = row["text"], row["source"]
            if text:
                _check_cell(row, cells)
        else:
            text, source = _first_label(word["keys"].split(), cells, tag, strips)
        if not text and is_english(tag):
            text, source = sign_case(word["english"]), "english"
        if text:
            yield {"language": tag, "word": word["word"], "text": text, "source": source}


def _first_label(
    keys: Sequence[str], cells: Cells, tag: str, strips: Sequence[Row]
) -> tuple[str, str]:
    """The first key's label that the language has, as a sign would have it, and that key."""
    for key in keys:
        text = sign_case(cells.label(key), tag, strips)
        if text:
            return text, key
    return "", ""


def _check_cell(row: Row, cells: Cells) -> None:
    """A curated text must stand in the cell that it cites; pages are judged by `checks.py`."""
    where = f"curated_signs.csv, {row['language']} {row['word']}"
    if not row["source"].startswith(("cldr:", "osm:", "page:")):
        expected = "a key of a package or page:<id>"
        raise MalformedRecordError(where, row["source"], expected, "Cite one, or drop the row.")
    if not row["source"].startswith("page:") and not cells.hold(row["source"], row["text"]):
        expected = f"a text of the cell {row['source']!r}"
        raise MalformedRecordError(where, row["text"], expected, "Cite the cell that has it.")


def sign_case(label: str, tag: str = "en", strips: Sequence[Row] = ()) -> str:
    """A package's label as a sign would have it: without words of its strip list, with a capital.

    Args:
        label: One alternative of a label.
        tag: Its language, which decides the capital of i.
        strips: What the language's labels carry beyond the word, rows of `sign_strips.csv`: `strip` goes
            at the `start` or the `end`, or everything `from` it on.

    Example:
        >>> sign_case("istasyon", "tr")
        'İstasyon'
        >>> sign_case("ป้ายห้ามสูบบุหรี่", "th", [{"where": "start", "strip": "ป้าย"}])
        'ห้ามสูบบุหรี่'
    """
    text = APOSTROPHES.sub("\u2019", INVISIBLE.sub("", label)).strip()
    for strip in strips:
        part = APOSTROPHES.sub("\u2019", strip["strip"])
        if strip["where"] == "start":
            text = text.removeprefix(part)
        elif strip["where"] == "end":
            text = text.removesuffix(part)
        else:
            text = text.partition(part)[0]
    text = unicodedata.normalize("NFC", text.strip())
    if tag in DOTTED_I and text.startswith("i"):
        return "\u0130" + text[1:]
    if tag == "nl" and text.startswith("ij"):
        return "IJ" + text[2:]
    return text[:1].title() + text[1:]


if __name__ == "__main__":
    main()
