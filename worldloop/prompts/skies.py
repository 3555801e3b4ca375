"""Weather and light in words, from the weather, the sun's position and lamps; composed of small parts."""

from worldloop.prompts.dice import Dice
from worldloop.prompts.places import PlaceWords
from worldloop.prompts.words import compass
from worldloop.scenes.scene import Scene

LOW_SUN_DEG, HIGH_SUN_DEG, HORIZON_DEG = 12.0, 50.0, 0.5
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": (
        "clear",
        "cloudless",
        "sun",
        "blue sky",
        "starlit",
        "starry",
        "stars",
        "fair",
        "fine weather",
    ),
    "cloudy": ("overcast", "cloud", "grey sky", "gray sky"),
    "rain": ("rain", "drizzle", "shower", "downpour"),
    "fog": ("fog", "mist"),
    "snow": ("snow", "flake"),
}
"""Parts of words of a prompt that say each weather."""

_CLEAR_NIGHT = (
    "a clear sky",
    "a cloudless night sky",
    "a clear black sky",
    "a starry sky",
    "clear, dark air",
)
_CLEAR_TWILIGHT = ("under a clear sky", "in fair weather", "beneath a cloudless sky")
_UNDER: dict[str, tuple[str, ...]] = {
    "clear": (
        "under a clear sky",
        "in fair weather",
        "beneath a cloudless sky",
        "under a plain blue sky",
        "in clear, dry air",
    ),
    "cloudy": (
        "under an overcast sky",
        "beneath low cloud",
        "under grey cloud",
        "with cloud from edge to edge",
        "in overcast weather",
    ),
    "rain": (
        "in steady rain",
        "in light rain",
        "in the rain",
        "while rain falls",
        "under rain clouds",
    ),
    "fog": ("in dense fog", "in fog", "with fog all around", "wrapped in fog", "in a pale fog"),
    "snow": (
        "in falling snow",
        "as snow falls",
        "amid drifting snowflakes",
        "in light snow",
        "under a snowy sky",
    ),
}
_SKY: dict[
    str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
] = {  # subject, verb, where
    "cloudy": (
        (
            "low cloud",
            "grey cloud",
            "a lid of cloud",
            "a quilt of cloud",
            "a dull layer of cloud",
            "unbroken cloud",
            "slow, heavy cloud",
        ),
        (
            "covers the sky",
            "hides the upper sky",
            "hangs over {place}",
            "spreads from end to end",
            "closes the sky",
            "drifts overhead",
            "rests on the horizon",
        ),
        (
            "",
            "",
            ", but no drop falls",
            " and the ground stays dry",
            " from edge to edge",
            ", flat and pale",
        ),
    ),
    "rain": (
        (
            "steady rain",
            "fine rain",
            "cold grey rain",
            "a thin rain",
            "slanting rain",
            "an even rain",
            "a soft rain",
            "drumming rain",
        ),
        (
            "falls",
            "comes down",
            "streaks the air",
            "patters on {ground}",
            "beads on {ground}",
            "runs down {ground}",
            "sweeps across {place}",
        ),
        (
            "",
            " without a break",
            ", and puddles spread",
            " and everything glistens",
            ", leaving a wet gloss",
            " and drips from every edge",
            ", dimpling the puddles",
        ),
    ),
    "fog": (
        (
            "thick fog",
            "white fog",
            "a bank of fog",
            "pale fog",
            "damp fog",
            "drifting fog",
            "low fog",
        ),
        (
            "swallows the distance",
            "lies over {place}",
            "blurs {ground}",
            "softens every outline",
            "hangs in the air",
            "drains the colours",
            "closes around {place}",
        ),
        (
            "",
            ", and far shapes turn to shadows",
            " beyond a few dozen steps",
            " so that only near things are sharp",
            ", cool and still",
            " and hides what is farther off",
        ),
    ),
    "snow": (
        ("snow", "dry snow", "fresh snow", "light snow", "fine snow", "soft snow"),
        (
            "drifts down",
            "falls in large flakes",
            "settles on {ground}",
            "whitens {ground}",
            "whirls over {place}",
            "piles up along the edges",
            "dusts {ground}",
        ),
        (
            "",
            " without a sound",
            ", and more is on its way",
            " and softens every outline",
            ", muffling the colours",
            " while flakes keep coming",
        ),
    ),
}
_SUN_LOW = (
    (
        "low sun",
        "a golden sun",
        "slanting sunlight",
        "level sunlight",
        "amber sunlight",
        "late-angled sun",
        "warm, flat sunlight",
    ),
    (
        "gilds {ground}",
        "rakes across {ground}",
        "stretches shadows over {ground}",
        "warms {ground}",
        "glows along {ground}",
        "reaches under every edge",
        "draws out long shadows",
    ),
)
_SUN_MID = (
    (
        "sunlight",
        "bright sun",
        "clear sunlight",
        "a steady sun",
        "crisp sunlight",
        "full sun",
        "unclouded sun",
    ),
    (
        "brightens {ground}",
        "throws firm shadows on {ground}",
        "models {ground} in light and shade",
        "picks out {ground}",
        "lies across {ground}",
        "strikes {ground}",
        "glints off {ground}",
    ),
)
_SUN_HIGH = (
    (
        "a high sun",
        "overhead sun",
        "hard sunlight",
        "strong sun",
        "a white, blinding sun",
        "steep sunlight",
        "a glaring sun",
    ),
    (
        "bleaches {ground}",
        "shortens every shadow",
        "beats on {ground}",
        "leaves small, dark shadows",
        "pours onto {ground}",
        "floods {place}",
        "dazzles on {ground}",
    ),
)
_COVERED = (
    (
        "soft light",
        "flat daylight",
        "an even grey light",
        "diffuse daylight",
        "pale light",
        "muted daylight",
        "shadowless light",
    ),
    (
        "rests on {ground}",
        "falls evenly on {ground}",
        "comes from all sides",
        "softens every edge",
        "dulls {ground}",
        "lies over {place}",
        "keeps colours quiet",
    ),
)
_LAMPS = (
    (
        "lamplight",
        "the glow of lamps",
        "warm electric light",
        "a row of lamps",
        "scattered lamplight",
        "light from near and far lamps",
        "yellowish lamplight",
    ),
    (
        "pools on {ground}",
        "picks {ground} out of the dark",
        "spills over {ground}",
        "shines on {ground}",
        "leaves dark gaps between",
        "edges {ground} with light",
        "holds back the dark",
    ),
)
_CEILING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "": (
        (
            "ceiling lamps",
            "strip lights",
            "recessed lamps",
            "overhead lights",
            "rows of lamps",
            "pale ceiling panels",
            "hanging lamps",
        ),
        (
            "light {ground} evenly",
            "shine on {ground}",
            "brighten {place}",
            "cast a mild glow on {ground}",
            "leave soft shadows under things",
            "glow above {ground}",
            "fill {place} with plain light",
        ),
    ),
    "dim": (
        (
            "dim lamps",
            "small lamps",
            "shaded lights",
            "faint blue lamps",
            "low lights",
            "a few subdued lamps",
        ),
        (
            "glimmer on {ground}",
            "leave {place} in half-light",
            "barely reach {ground}",
            "mark {ground}",
            "glow near {ground}",
            "tint {ground}",
        ),
    ),
}
_DIM = ("aquarium", "planetarium", "theatre")
_OUTSIDE: dict[str, tuple[str, ...]] = {
    "clear": (
        "the sky outside is clear",
        "outside it is clear and dry",
        "fair weather reigns outside",
        "the weather outdoors is clear",
    ),
    "cloudy": (
        "the sky outside is overcast",
        "cloud covers the sky outdoors",
        "outside it is overcast",
        "grey cloud hangs outside",
    ),
    "rain": (
        "rain falls outside",
        "it is raining outdoors",
        "outside, a steady rain comes down",
        "rain wets the street outside",
    ),
    "fog": (
        "fog hangs outside",
        "outdoors it is foggy",
        "the street outside lies in fog",
        "fog blurs the world outside",
    ),
    "snow": (
        "snow falls outside",
        "it is snowing outdoors",
        "outside, snowflakes drift down",
        "snow covers the street outside",
    ),
}


def under_weather(scene: Scene, dice: Dice) -> str:
    """The weather as an adverbial of a scene outdoors: `in steady rain`."""
    if scene.weather == "clear" and scene.is_night:
        return f"under {dice.pick(_CLEAR_NIGHT)}"
    if scene.weather == "clear" and scene.sun_elevation_deg < HORIZON_DEG:
        return dice.pick(_CLEAR_TWILIGHT)
    return dice.pick(_UNDER[scene.weather])


def weather_outside(scene: Scene, dice: Dice) -> str:
    """The weather as a clause of a scene indoors."""
    return dice.pick(_OUTSIDE[scene.weather])


def sky_clause(scene: Scene, place: PlaceWords, dice: Dice) -> str:
    """What falls from the sky or covers it, a finite clause; empty in clear weather."""
    parts = _SKY.get(scene.weather)
    if parts is None:
        return ""
    return "".join(
        (f"{dice.pick(parts[0])} ", _at(dice.pick(parts[1]), place, dice), dice.pick(parts[2]))
    )


def light_clause(scene: Scene, place: PlaceWords, dice: Dice, *, indoors: bool) -> str:
    """Where the light comes from and what it does, a finite clause."""
    if indoors:
        sources, verbs = _CEILING["dim" if is_dim(scene) else ""]
        things = " ".join([one.says for one in scene.details])
        unnamed = [source for source in sources if source not in things]
        return f"{dice.fresh(unnamed)} {_at(dice.fresh(verbs), place, dice)}"
    sources, verbs = _outdoor_light(scene)
    source = dice.fresh(sources)
    verb = _at(dice.fresh(verbs), place, dice)
    if scene.is_night or scene.weather != "clear":
        return f"{source} {verb}"
    if scene.sun_elevation_deg < HORIZON_DEG:
        return _glow(scene, dice)
    if scene.sun_elevation_deg < HIGH_SUN_DEG:
        return f"{source} from the {compass(scene.sun_azimuth_deg)} {verb}"
    return f"{source} {verb}"


def is_dim(scene: Scene) -> bool:
    """Whether lamps indoors leave the place in half-light."""
    return scene.institution in _DIM


def _outdoor_light(scene: Scene) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if scene.is_night:
        return _LAMPS
    if scene.weather != "clear":
        return _COVERED
    if scene.sun_elevation_deg < LOW_SUN_DEG:
        return _SUN_LOW
    return _SUN_MID if scene.sun_elevation_deg < HIGH_SUN_DEG else _SUN_HIGH


def _glow(scene: Scene, dice: Dice) -> str:
    """The sky while the sun is at the horizon."""
    first = "first" if scene.hour < 12 else "last"
    glow = dice.pick(
        (
            f"a {first} glow",
            f"the {first} light",
            "a band of orange",
            "a pink rim",
            "a pale gold strip",
        )
    )
    verb = dice.pick(
        ("tints the sky", "lingers", "colours the horizon", "marks the horizon", "spreads")
    )
    return f"{glow} {verb} in the {compass(scene.sun_azimuth_deg)}"


def _at(verb: str, place: PlaceWords, dice: Dice) -> str:
    """The verb with the surface or place that it speaks of."""
    if "{" not in verb:
        return verb
    if "{ground}" in verb:
        return verb.replace("{ground}", dice.pick(place.grounds))
    return verb.replace("{place}", f"the {dice.pick(place.short)}")
