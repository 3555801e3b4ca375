"""A scene in one line of 10 to 25 words, as somebody would search for it."""

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import Institution
from worldloop.prompts.dice import Dice, dice_of
from worldloop.prompts.places import where, words_of
from worldloop.prompts.roads import FULLNESS, open_road
from worldloop.prompts.times import part_of_day
from worldloop.prompts.words import KINDS as NOUNS
from worldloop.prompts.words import (
    an,
    clothes,
    counted,
    crowd_word,
    joined,
    num_words,
    plural,
    thing,
    weather_word,
)
from worldloop.scenes.scene import Scene, Subject

MIN_WORDS, MAX_WORDS = 10, 25
MOST_THINGS = 3
KINDS: dict[str, tuple[str, ...]] = {
    "street": ("city street", "street", "street", "shopping street"),
    "hospital": ("hospital ward", "hospital", "hospital ward"),
    "zoo": ("zoo", "zoo", "zoological garden"),
    "museum": ("museum", "museum gallery", "art museum"),
    "amusement_park": ("amusement park", "amusement park", "fairground"),
}
OUTDOORS = (
    "{a_weather} {kind} in {city} {time}, with {things}",
    "{a_weather} {part} {kind} in {place} with {things}, and {people}",
    "{a_crowd} {kind} in {city} {on_part}, with {things}",
    "{things} {at} {a_kind} in {place} {time}, {weather} weather",
    "{people}, and {things}, {at} {a_weather} {kind} in {city} {time}",
    "{a_weather} {part} {at} {a_kind} in {place}: {things}",
    "{kind} in {city}, {weather}, {crowd}, {time}, with {things}, and {people}",
)
INDOORS = (
    "{a_crowd} {kind} in {place} with {things}, and {people}",
    "inside {a_kind} in {city}, with {things}, and {people}",
    "{people} in {a_kind} with {detail} in {place}, with {things}",
    "{a_kind} in {city} {time}, with {detail}, {things}, and {people}",
    "{a_kind} with {detail} in {place}, showing {things}",
    "{things} in {a_crowd} {kind} in {city}, with {detail}, and {people}",
)
_TWILIGHT = ("dawn", "dusk")
UNSAID = ("curtain", "tree", "bench", "balloon")  # too common to name


def short_caption(scene: Scene, atlas: Atlas, *, variant: int = 0) -> str:
    """One line about a scene that says only what a sketch of it shows too.

    Args:
        scene: A scene of any institution.
        atlas: For the names of city, country and languages.
        variant: Another number gives, as a rule, another true line about the same scene.

    Returns:
        10 to 25 words without a full stop. Details, script and drive are never said.
    """
    kind = atlas.institution(scene.institution)
    dice = dice_of(scene, "caption", variant)
    forms = dice.shuffled(
        [
            form
            for form in (INDOORS if kind.setting == "indoor" else OUTDOORS)
            if scene.roles or "people" not in form
        ]
    )
    facts = _facts(scene, atlas, kind, dice)
    caption = next(
        (
            text
            for most in range(MOST_THINGS, 0, -1)
            for text in (form.format(**facts, things=_things(scene, most, dice)) for form in forms)
            if num_words(text) <= MAX_WORDS
        ),
        f"{facts['a_crowd']} {facts['kind']} in {facts['place']} {facts['time']}, {facts['weather']} weather",
    )
    extras = (
        f", with {facts['detail']}",
        f", where it is {facts['crowd']}",
        f", {facts['country']}",
    )
    for extra in extras:
        if num_words(caption) < MIN_WORDS and extra.split()[-1] not in caption:
            caption += extra
    return caption


def _facts(scene: Scene, atlas: Atlas, place: Institution, dice: Dice) -> dict[str, str]:
    """Everything that a form may name, but for the things."""
    city = atlas.city(scene.city)
    road = open_road(scene, atlas)
    kind = road.name if road else dice.pick(KINDS.get(scene.institution) or words_of(place).names)
    part, crowd = part_of_day(scene), crowd_word(scene.crowd, is_staffed=bool(scene.roles))
    is_low = part in _TWILIGHT  # of the sun, which makes nothing sunny then
    weather = "clear" if is_low and scene.weather == "clear" else weather_word(scene)
    if road and scene.drive:
        crowd = FULLNESS[scene.drive.density]
    return {
        "kind": kind,
        "a_kind": an(kind),
        "city": city.name,
        "country": atlas.country(city.key).name,
        "place": where(atlas, city.key),
        "weather": weather,
        "a_weather": an(weather),
        "crowd": crowd,
        "a_crowd": an(crowd),
        "time": _time(part, dice),
        "part": part,
        "on_part": f"at {part} in {weather} weather" if is_low else f"on {an(weather)} {part}",
        "at": "on" if scene.institution == "street" else "at",
        "people": _people(scene, dice),
        "detail": "road signs" if road else _detail(scene, atlas),
    }


def _time(part: str, dice: Dice) -> str:
    """When, by the sun as the index and the gallery have it: an evening in summer is afternoon."""
    if part == "night":
        return dice.pick(("at night", "after dark", "at night"))
    return f"at {part}" if part in _TWILIGHT else f"in the {part}"


def _things(scene: Scene, most: int, dice: Dice) -> str:
    """Some things that are shown, counted or only in the plural."""
    shown = [subject for subject in scene.subjects if subject.kind not in UNSAID][:most]
    exact = dice.chance(50)
    return joined([_thing(subject, exact=exact) for subject in shown])


def _thing(subject: Subject, *, exact: bool) -> str:
    """One kind of thing."""
    loose = subject.count > 1 and not exact
    if not loose:
        return thing(subject)
    return (
        plural(f"{subject.trait} {subject.kind}".strip()) if subject.kind in NOUNS else subject.kind
    )


def _people(scene: Scene, dice: Dice) -> str:
    """One of the roles, with clothes if they tell what somebody does."""
    if not scene.roles:
        return "nobody"
    role = dice.pick(scene.roles)
    told = counted(role.name, role.count)
    return f"{told} in {clothes(role)}" if role.dress.color else told


def _detail(scene: Scene, atlas: Atlas) -> str:
    """Something of the setting that one sees: a colour, a material, or the language of signs."""
    style = scene.style
    if "wall" in style:
        return f"{style['wall']} walls"
    if "accent" in style:
        return f"{style['accent']} curtains"
    if "facade" in style:
        return f"{style['facade']} buildings"
    languages = [atlas.languages[sign.language].name for sign in scene.signs]
    return f"signs in {languages[0]}" if languages else "people about"
