"""Rules of languages and signs."""

from collections.abc import Iterator

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import FALLBACK_LANGUAGE, SignWord, is_english
from worldloop.atlas.rules.registry import doubled, is_known_source, rule, source_sentence
from worldloop.atlas.sign_checks import SCRIPT_WORDS, SOURCE_FORMS, text_problems
from worldloop.atlas.signs import sign_texts

OWN_ENGLISH = "english"  # source of the texts that the editors wrote


def _signs(atlas: Atlas) -> Iterator[tuple[str, SignWord]]:
    """Signs with the words that name their row."""
    for sign in atlas.signs:
        yield f"signs.csv, row {sign.language}/{sign.word}", sign


@rule
def sign_stands_once(atlas: Atlas) -> Iterator[str]:
    """One text a word and language."""
    for key in doubled((sign.language, sign.word) for sign in atlas.signs):
        yield f"signs.csv has the row {key} more than once."


@rule
def sign_language_is_known(atlas: Atlas) -> Iterator[str]:
    """Languages of signs are in `languages.csv`."""
    for where, sign in _signs(atlas):
        if sign.language not in atlas.languages:
            yield f"{where} has a language that languages.csv lacks."


@rule
def sign_word_is_known(atlas: Atlas) -> Iterator[str]:
    """Words of signs were asked for."""
    for where, sign in _signs(atlas):
        if sign.word not in atlas.words:
            yield f"{where} has a word that inputs/sign_words.csv lacks."


@rule
def sign_source_is_known(atlas: Atlas) -> Iterator[str]:
    """No sign is guessed: each has the cell of a package or a page; English may be our own."""
    for where, sign in _signs(atlas):
        own = sign.source == OWN_ENGLISH
        if not is_known_source(atlas, sign.source):
            yield source_sentence(sign.source, where)
        elif not SOURCE_FORMS.fullmatch(sign.source) or (own and not is_english(sign.language)):
            yield (
                f"{where} has source {sign.source!r}; expected cldr:<emoji>, osm:<key> or page:<id>, "
                f"and {OWN_ENGLISH!r} for English alone."
            )


@rule
def sign_is_in_its_script(atlas: Atlas) -> Iterator[str]:
    """A sign is a word in the script of its language, not a sentence or a label of an editor."""
    for sign in atlas.signs:
        language = atlas.languages.get(sign.language)
        where = f"row {sign.language}/{sign.word} of signs.csv"
        if language:
            yield from text_problems(sign.text, language.script, where)


@rule
def language_script_is_known(atlas: Atlas) -> Iterator[str]:
    """Scripts are those whose letters we can tell, and the direction is one of two."""
    for tag, language in atlas.languages.items():
        if language.script not in SCRIPT_WORDS or language.direction not in ("ltr", "rtl"):
            yield (
                f"languages.csv, row {tag!r} has script {language.script!r} and direction "
                f"{language.direction!r}; expected one of sign_checks.py and 'ltr' or 'rtl'."
            )


@rule
def sign_is_drawn(atlas: Atlas) -> Iterator[str]:
    """Every text was shaped and baked, so that no clip depends on a machine's fonts."""
    drawn = {language: frozenset(texts) for language, texts in sign_texts().items()}
    for where, sign in _signs(atlas):
        if sign.text not in drawn.get(sign.language, ()):
            yield f"{where} was not drawn; run worldloop.atlas.bake_signs."


@rule
def sign_word_has_english(atlas: Atlas) -> Iterator[str]:
    """English is the last fallback, so it has every word."""
    english = {sign.word for sign in atlas.signs if sign.language == FALLBACK_LANGUAGE}
    for word in atlas.words:
        if word not in english:
            yield f"signs.csv has no English text for the word {word!r}, the last fallback."
