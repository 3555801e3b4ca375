"""What keeps a text from being a sign: letters of another script, brackets, a sentence; the forms of its source.

`rules/signs.py` judges the signs of an atlas by it.
"""

import re
import unicodedata
from collections.abc import Iterator

SOURCE_FORMS = re.compile(r"cldr:\S+|osm:\S+|page:\S+|english")
SIGN_MARKS = frozenset(
    " -\u2013\u2018\u2019\u00b7\u05f3\u200c\u200d"
)  # beside letters and their marks
LONGEST_SIGN = 48  # letters; longer texts are sentences
SCRIPT_WORDS: dict[str, tuple[str, ...]] = {  # how Unicode names begin for letters of a script
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Gujr": ("GUJARATI",),
    "Guru": ("GURMUKHI",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Khmr": ("KHMER",),
    "Knda": ("KANNADA",),
    "Kore": ("HANGUL",),
    "Laoo": ("LAO",),
    "Latn": ("LATIN", "MODIFIER LETTER", "COMBINING"),
    "Mlym": ("MALAYALAM",),
    "Mymr": ("MYANMAR",),
    "Orya": ("ORIYA",),
    "Sinh": ("SINHALA",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Thaa": ("THAANA",),
    "Thai": ("THAI",),
    "Tibt": ("TIBETAN",),
}
REPERTOIRES = {
    "Hans": "gb2312",
    "Hant": "big5",
    "Jpan": "cp932",
}  # one block of Unicode, three scripts


def text_problems(text: str, script: str, where: str) -> Iterator[str]:
    """What keeps a text from being a sign in a script.

    Example:
        >>> list(text_problems("Museo (edificio)", "Latn", "sign"))
        ["The sign has '()', which no sign has."]
    """
    off = off_script(text, script)
    if off:
        yield f"The {where} has {off!r}, which is not of script {script}."
    odd = "".join(c for c in text if unicodedata.category(c)[0] not in "LM" and c not in SIGN_MARKS)
    if odd:
        yield f"The {where} has {odd!r}, which no sign has."
    if not text or text != " ".join(text.split()) or len(text) > LONGEST_SIGN:
        yield f"The {where} has the text {text!r}; a sign has 1 to {LONGEST_SIGN} letters, trimmed."


def off_script(text: str, script: str) -> str:
    """The letters and marks of a text that are not of a script; shared signs belong to all.

    Han letters must be of the script's own repertoire: simplified ones are not traditional.

    Example:
        >>> off_script("病院 A", "Jpan"), off_script("书店", "Hant")
        ('A', '书')
    """
    words = SCRIPT_WORDS.get(script, ())
    letters = [char for char in text if unicodedata.category(char)[0] in "LM"]
    repertoire = REPERTOIRES.get(script, "utf-8")
    return "".join(
        char
        for char in letters
        if not unicodedata.name(char, "").startswith(words)
        or not char.encode(repertoire, errors="ignore")
    )
