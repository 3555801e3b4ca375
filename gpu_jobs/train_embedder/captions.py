"""Many short true sentences about a scene: what the embedder learns to match with its frames.

Weather and time of day are said outdoors only, where a frame shows them.
"""

from worldloop.atlas.atlas import Atlas
from worldloop.dayparts import daypart
from worldloop.prompts.captions import short_caption
from worldloop.prompts.words import CROWDS, an, clothes, counted, joined, plural
from worldloop.scenes.scene import Role, Scene
from worldloop.seeds import stream

OUTDOORS = ("street", "zoo", "amusement_park")
NOUNS: dict[str, tuple[str, ...]] = {
    "street": ("street", "city street", "road in the city", "urban street"),
    "hospital": ("hospital", "hospital ward", "clinic ward", "hospital room"),
    "zoo": ("zoo", "zoological garden", "animal park"),
    "museum": ("museum", "museum gallery", "art museum", "exhibition hall"),
    "amusement_park": ("amusement park", "theme park", "funfair", "fairground"),
}
WEATHER: dict[str, tuple[str, ...]] = {
    "clear": ("sunny", "clear"),
    "cloudy": ("cloudy", "overcast", "grey"),
    "rain": ("rainy", "wet"),
    "fog": ("foggy", "misty"),
    "snow": ("snowy", "wintry"),
}
LIGHT: dict[str, tuple[str, ...]] = {
    "night": ("at night", "after dark", "in the dark"),
    "dawn": ("at dawn", "at sunrise", "in the twilight"),
    "dusk": ("at dusk", "at sunset", "in the twilight"),
    "morning": ("in the morning", "by day", "in the daytime"),
    "afternoon": ("in the afternoon", "by day", "in the daytime"),
}
LIGHT_ADJECTIVES = {"night": "night", "dawn": "twilight", "dusk": "twilight"}


def caption_variants(scene: Scene, atlas: Atlas, *, count: int = 15) -> list[str]:
    """Different sentences about a scene, the same ones each time.

    Args:
        scene: What is shown.
        atlas: For the names of places.
        count: At most this many; sentences that come out alike are merged.
    """
    rng, city = stream(scene.seed, "train_embedder", "captions"), atlas.city(scene.city)
    part = daypart(hour=scene.hour, sun_elevation_deg=scene.sun_elevation_deg)

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    def noun() -> str:
        return pick(NOUNS[scene.institution])

    def sight() -> str:
        """The place with what the air shows: `rainy city street at night`."""
        if scene.institution not in OUTDOORS:
            return noun()
        sky = (
            "night"
            if scene.weather == "clear" and part == "night"
            else pick(WEATHER[scene.weather])
        )
        light = LIGHT_ADJECTIVES.get(part, "")
        choices = (
            f"{sky} {noun()} {pick(LIGHT[part])}",
            f"{sky} {light} {noun()}" if sky != light else f"{light} {noun()}",
            f"{noun()} {pick(LIGHT[part])}",
            f"{sky} {noun()}",
        )
        return " ".join(pick(choices).split())

    country = atlas.country(city.key).name
    where = (city.name, country, f"{city.name}, {country}")
    lines = [noun(), an(noun()), *(text for _ in range(3) for text in (sight(), an(sight())))]
    lines.append(f"{an(CROWDS[scene.crowd])} {noun()}")
    lines += [f"{an(sight())} in {pick(where)}", f"{pick(where)}: {sight()}"]
    lines += [f"{an(sight())} with {thing}" for thing in _things(scene)]
    lines += [f"{text} in {an(noun())}" for text in _people(scene)]
    lines += [f"{an(noun())} with {style}" for style in _style(scene)]
    lines += [short_caption(scene, atlas, variant=variant) for variant in range(4)]
    chosen = list(dict.fromkeys(lines))
    order = rng.permutation(len(chosen))[:count]
    return [chosen[i] for i in sorted({0, *order.tolist()})]


def _things(scene: Scene) -> list[str]:
    kinds = [subject for subject in scene.subjects if subject.count]
    singles = [plural(s.kind) if s.count > 1 else an(s.kind) for s in kinds]
    counts = [counted(subject.kind, subject.count) for subject in kinds]
    return [*singles, joined(counts), joined(singles)] if kinds else []


def _people(scene: Scene) -> list[str]:
    return [text for role in scene.roles if role.count for text in _person(role)]


def _person(role: Role) -> tuple[str, str]:
    name = plural(role.name) if role.count > 1 else an(role.name)
    return name, f"{name} in {clothes(role)}"


def _style(scene: Scene) -> list[str]:
    phrases = {
        "facade": "{} houses",
        "wall": "{} walls",
        "floor": "a {} floor",
        "accent": "{} curtains",
    }
    return [text.format(scene.style[key]) for key, text in phrases.items() if key in scene.style]
