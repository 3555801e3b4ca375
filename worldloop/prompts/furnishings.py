"""What is in a scene beside people: subjects with their number, and details of its decorum, in clauses."""

from collections.abc import Sequence

from worldloop.prompts.dice import Dice
from worldloop.prompts.places import PlaceWords
from worldloop.prompts.words import an, is_many, joined
from worldloop.scenes.scene import Detail, Scene

CLAUSE_SLOTS = ("queueing", "courtesy")
"""Slots whose values are finite clauses; those of all others are noun phrases."""
STILL_ON_STREETS = ("tree", "bench", "lamp")
_WHERE = (
    *(
        "close by",
        "nearby",
        "off to one side",
        "in the middle distance",
        "farther back",
        "in the foreground",
    ),
    *(
        "at the centre",
        "along one side",
        "a few steps away",
        "at the edge of the view",
        "a little to the side",
    ),
    *("in the background", "a little farther on", "at one end", "just ahead"),
)
_SUBJECT_FRAMES: tuple[
    tuple[str, str], ...
] = (  # one or many; {x} what is there, {w} where, {s} the place
    ("{x} is {w}", "{x} are {w}"),
    ("{x} can be seen {w}", "{x} can be seen {w}"),
    ("there is {x} {w}", "there are {x} {w}"),
    ("the {s} has {x} {w}", "the {s} has {x} {w}"),
    ("the view takes in {x}", "the view takes in {x}"),
    ("the scene includes {x} {w}", "the scene includes {x} {w}"),
    ("{x} comes into view {w}", "{x} come into view {w}"),
    ("one makes out {x} {w}", "one makes out {x} {w}"),
    ("{x} belongs to the {s}", "{x} belong to the {s}"),
    ("{w}, {x} draws the eye", "{w}, {x} draw the eye"),
    ("{w} one notices {x}", "{w} one notices {x}"),
)
_FRAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "architecture": (
        ("the backdrop is {x}", "the backdrop consists of {x}"),
        ("{x} frames the scene", "{x} frame the scene"),
        ("{x} serves as the backdrop", "{x} serve as the backdrop"),
        ("the setting is {x}", "the setting consists of {x}"),
        ("behind it all is {x}", "behind it all are {x}"),
        ("{x} sets the tone", "{x} set the tone"),
        ("the builders' choice was {x}", "the builders chose {x}"),
        ("{x} makes up the background", "{x} make up the background"),
    ),
    "furniture": (
        ("{x} stands {w}", "{x} stand {w}"),
        ("the furniture includes {x}", "the furniture includes {x}"),
        ("{x} is kept ready", "{x} are kept ready"),
        ("{x} furnishes the {s}", "{x} furnish the {s}"),
        ("there is {x} to use", "there are {x} to use"),
        ("{w} is {x}", "{w} are {x}"),
        ("{x} has its place {w}", "{x} have their place {w}"),
    ),
    "fixtures": (
        ("{x} catches the eye", "{x} catch the eye"),
        ("the fittings include {x}", "the fittings include {x}"),
        ("{x} shows {w}", "{x} show {w}"),
        ("{x} is part of the equipment", "{x} are part of the equipment"),
        ("{w} one finds {x}", "{w} one finds {x}"),
        ("{x} adds to the picture", "{x} add to the picture"),
        ("the eye meets {x} {w}", "the eye meets {x} {w}"),
    ),
    "sign_style": (
        ("signage takes the form of {x}", "signage takes the form of {x}"),
        ("{x} does for signage", "{x} do for signage"),
        ("for signs the {s} uses {x}", "for signs the {s} uses {x}"),
        ("{x} serves as a sign {w}", "{x} serve as signs {w}"),
        ("the way is shown by {x}", "the way is shown by {x}"),
        ("typical of the signs here: {x}", "typical of the signs here: {x}"),
    ),
    "plants": (
        ("{x} grows {w}", "{x} grow {w}"),
        ("{x} adds some green {w}", "{x} add some green {w}"),
        ("among the plants one finds {x}", "among the plants one finds {x}"),
        ("{x} is rooted {w}", "{x} are rooted {w}"),
        ("{w} grows {x}", "{w} grow {x}"),
        ("the green of {x} shows {w}", "the green of {x} shows {w}"),
    ),
    "animals": (
        ("{x} is about", "{x} are about"),
        ("{x} can be spotted {w}", "{x} can be spotted {w}"),
        ("{x} appears {w}", "{x} appear {w}"),
        ("now and then {x} comes close", "now and then {x} come close"),
        ("{x} moves about {w}", "{x} move about {w}"),
    ),
    "": (
        ("{x} completes the picture", "{x} complete the picture"),
        ("one also sees {x}", "one also sees {x}"),
        ("{x} can be made out {w}", "{x} can be made out {w}"),
        ("{w} one sees {x}", "{w} one sees {x}"),
    ),
}


_PAIR_FRAMES = (*_FRAMES[""], *_SUBJECT_FRAMES[2:8])


def subject_clause(parts: Sequence[str], place: PlaceWords, dice: Dice) -> str:
    """That some subjects are there, a finite clause; each part is a phrase with number or article."""
    many = len(parts) > 1 or is_many(parts[0])
    return _framed(dice.fresh(_SUBJECT_FRAMES), joined(parts), many, place, dice)


def detail_clause(detail: Detail, place: PlaceWords, dice: Dice) -> str:
    """A detail as a finite clause."""
    if detail.slot in CLAUSE_SLOTS:
        return detail.says
    frames = _FRAMES.get(detail.slot, _FRAMES[""])
    return _framed(dice.fresh(frames), detail.says, is_many(detail.says), place, dice)


def pair_clause(details: Sequence[Detail], place: PlaceWords, dice: Dice) -> str:
    """Two details in one finite clause."""
    said = joined([detail.says for detail in details])
    return _framed(dice.fresh(_PAIR_FRAMES), said, True, place, dice)


def starts_with_place(text: str) -> bool:
    """Whether a clause begins with where something is."""
    return text.startswith(_WHERE)


def _framed(frame: tuple[str, str], said: str, many: bool, place: PlaceWords, dice: Dice) -> str:
    form = frame[1 if many else 0]
    if said.endswith((" stand", " stands", " can")):  # `stands stand`, `an oil can can be seen`
        form = form.replace("{x} stands ", "{x} is ").replace("{x} stand ", "{x} are ")
        form = form.replace("{x} can be ", "{x} will be ")
    if many and said.startswith(("a ", "an ")):  # the verb agrees with what follows it
        form = form.replace("there are", "there is")
    text = form.replace("{x}", said)
    if "{w}" in text:
        text = text.replace("{w}", dice.fresh(_WHERE))
    return text.replace("{s}", dice.pick(place.short)) if "{s}" in text else text


def style_phrases(scene: Scene) -> list[str]:
    """Traits that the grammars of worlds show, as noun phrases."""
    style, said = scene.style, []
    if "facade" in style:
        era = {"old": "old ", "modern": "modern ", "highrise": "high-rise "}.get(
            style.get("era", ""), ""
        )
        said.append(f"{era}buildings with {style['facade']} facades")
    if "awnings" in style:
        said.append(
            "many shop awnings" if style["awnings"] == "many" else "few awnings over the shops"
        )
    if "accent" in style:
        said.append(f"{style['accent']} curtains and doors")
    if "theme" in style:
        borders = {
            "savanna": "borders of dry grass, timber and thatch",
            "forest": "lawns, hedges and timber fences",
            "stone": "lawns and low stone walls",
        }
        said.append(borders.get(style["theme"], "shade trees"))
    if "wall" in style:
        said.append(f"{style['wall']} walls")
    if "ceiling" in style:
        said.append(
            "a skylight in the ceiling"
            if style["ceiling"] == "skylight"
            else "spotlights in the ceiling"
        )
    if style.get("floor") in ("parquet", "stone"):
        said.append(an(f"{style['floor']} floor"))
    if "stalls" in style:
        said.append(
            "striped stall awnings" if style["stalls"] == "striped" else "plain stall awnings"
        )
    return said
