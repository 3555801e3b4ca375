"""Signs of a scene, quoted letter for letter, with what a foreign one means."""

from collections.abc import Sequence

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import Sign, is_english
from worldloop.prompts.dice import Dice
from worldloop.prompts.words import NAMES, joined
from worldloop.scenes.scene import Scene

SIGNS_QUOTED = 3
_ONE = (
    "a sign",
    "a board",
    "one sign",
    "a notice",
    "a panel",
    "a plate",
    "the lettering",
    "a painted sign",
    "one board",
)
_FIRST = ("a sign", "a board", "one sign", "a notice", "a panel", "one board", "a plate")
_MANY = (
    "signs",
    "boards",
    "the signs",
    "notices",
    "panels",
    "several signs",
    "the lettering",
    "the boards",
)
_SAYS = ("reads", "says", "is lettered", "bears the text", "shows", "carries", "announces")
_SAY = ("read", "say", "bear the texts", "show", "carry", "announce", "spell out")
_HUNG = (
    "over the entrance",
    "at eye level",
    "on a board",
    "overhead",
    "beside the way",
    "in clear letters",
    "on a plate",
    "above a door",
)
_BY_ROADS = ("overhead", "beside the way", "in clear letters", "on a plate", "on a board")
_SEEN = ("stands", "is written", "can be read", "is shown", "appears", "is displayed")


def quoted_signs(scene: Scene) -> list[Sign]:
    """The signs that prose quotes."""
    return [sign for sign in scene.signs if sign.text][:SIGNS_QUOTED]


def sign_clause(
    signs: Sequence[Sign], atlas: Atlas, dice: Dice, *, glossed: bool, by_road: bool = False
) -> str:
    """What is written there, a finite clause; beside a road without pavements there are no doors."""
    hung = _BY_ROADS if by_road else _HUNG
    quotes = [_quote(sign, atlas, glossed=glossed) for sign in signs]
    languages = {atlas.languages[sign.language].name for sign in signs}
    tongue = f" in {languages.pop()}" if len(languages) == 1 and dice.chance(55) else ""
    said, one = joined(quotes), len(signs) == 1
    match dice.below(7):
        case 0 if one:
            return f"{said} {dice.pick(_SEEN)} {dice.pick(hung)}{tongue}"
        case 1 if not one:
            return f"{quotes[0]} {dice.pick(_SEEN)} {dice.pick(hung)}{tongue}, {joined(quotes[1:])} elsewhere"
        case 2:
            return f"one reads {said}{tongue} {dice.pick(hung)}"
        case 3 if not one:
            return f"{dice.pick(_FIRST)} {dice.pick(_SAYS)} {quotes[0]}{tongue}, {_others(len(signs) - 1, dice)} {joined(quotes[1:])}"
        case 4:
            return f"{dice.pick(('letters', 'clear letters', 'characters', 'painted letters'))}{tongue} {dice.pick(('spell', 'give', 'form', 'say'))} {said}"
        case 5:
            return f"{dice.pick(hung)} {'is' if one else 'are'} {said}{tongue}"
    if one:
        subject, verb = dice.pick(_ONE), dice.pick(_SAYS)
    else:
        subject = dice.pick(_MANY)
        verb = dice.pick(_SAYS[:2] if subject == "the lettering" else _SAY)
    return f"{subject}{tongue} {verb} {said}"


def _others(count: int, dice: Dice) -> str:
    """Who carries the other texts."""
    return (
        dice.pick(("another", "a second", "the next"))
        if count == 1
        else dice.pick(("others", "the rest"))
    )


def _quote(sign: Sign, atlas: Atlas, *, glossed: bool) -> str:
    """A text in quotation marks, with its meaning after a foreign one."""
    english = atlas.words.get(sign.word, sign.word)
    english = NAMES.get(english, english)
    if not glossed or is_english(sign.language) or sign.text.lower() == english.lower():
        return f"\u201c{sign.text}\u201d"
    return f"\u201c{sign.text}\u201d ({english})"
