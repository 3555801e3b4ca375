"""The opening of a text in the manner of an aerial panorama: skyline, roads below, time of day and sky."""

from worldloop.atlas.atlas import Atlas
from worldloop.errors import MalformedRecordError
from worldloop.prompts.dice import Dice
from worldloop.prompts.places import where, words_of
from worldloop.prompts.words import an, compass
from worldloop.scenes.scene import Scene

AERIAL = ("drone", "birds_eye")
_ROOFS = (
    "roofs",
    "rooftops",
    "towers and low roofs",
    "blocks of buildings",
    "house fronts and roofs",
)
_REACH = (
    "reach toward the horizon",
    "fade into the distance",
    "fill the frame to its edges",
    "spread out to the rim of the sky",
)
_ROADS = ("roads", "streets", "a web of streets", "a mesh of roads and paths")


def cinematic_opening(
    scene: Scene, atlas: Atlas, time: str, fullness: str, dice: Dice
) -> list[str]:
    """Sentences without capital and full stop.

    Args:
        scene: A scene outdoors that is seen from the air.
        atlas: For names.
        time: When it is, as an adverbial.
        fullness: How full it is, an adjective.
        dice: Of the text.

    Raises:
        MalformedRecordError: If the camera of the scene is on the ground.
    """
    if scene.camera not in AERIAL:
        raise MalformedRecordError(
            "camera of a cinematic text",
            scene.camera,
            f"one of {', '.join(AERIAL)}",
            "Choose the plain style.",
        )
    city, kind = where(atlas, scene.city), atlas.institution(scene.institution)
    name = an(f"{fullness} {dice.pick(words_of(kind).names)}")
    high = "a bird's-eye view" if scene.camera == "birds_eye" else "a drone in smooth, level flight"
    taken = (
        "from a bird's-eye view"
        if scene.camera == "birds_eye"
        else "by a drone in smooth, level flight"
    )
    width = dice.pick(("sweeping", "wide", "vast", "grand"))
    panorama = dice.pick(("aerial panorama", "aerial view", "panorama from the air"))
    roofs, reach, roads = dice.pick(_ROOFS), dice.pick(_REACH), dice.pick(_ROADS)
    network = "weaves" if roads.startswith("a ") else "weave"
    first = dice.pick(
        (
            f"{an(width)} {panorama} opens over {city}, {time}, taken {taken}",
            f"{time}, {high} unfolds {an(width)} {panorama} of {city}"
            if scene.camera == "birds_eye"
            else f"{time}, {high} reveals {an(width)} {panorama} of {city}",
            f"{high} shows {city}, {time}, in {an(width)} {panorama}",
        )
    )
    skyline = dice.pick(
        (
            f"the skyline of {roofs} seems to {reach}",
            f"{roofs} make up a skyline whose lines {reach}",
            f"along the skyline, {roofs} {reach}",
        )
    )
    below = dice.pick(
        (
            f"below, {roads} {network} around {name}",
            f"far below, {roads} {network} past {name}",
            f"{roads} {network} below, and among them lies {name}",
        )
    )
    return [first, skyline, f"{below}, {_sky(scene, dice)}"]


def _sky(scene: Scene, dice: Dice) -> str:
    """The sky as an absolute phrase."""
    if scene.weather != "clear":
        sky = {
            "cloudy": ("a grey, overcast sky", "a sky of layered cloud"),
            "rain": ("a dark rain sky", "a sky heavy with rain"),
            "fog": ("a sky dissolved in fog", "fog where the sky should be"),
            "snow": ("a pale sky full of snowflakes", "a white, snowy sky"),
        }[scene.weather]
        return f"under {dice.pick(sky)}"
    if scene.is_night:
        return dice.pick(
            (
                "lights glittering beneath a clear night sky",
                "strings of lamps under a clear, dark sky",
            )
        )
    if scene.sun_elevation_deg < 12:
        side = compass(scene.sun_azimuth_deg)
        return dice.pick(
            (
                f"glass and stone glowing in golden light from the {side}, under a clear sky",
                f"a clear sky turning gold in the {side}",
            )
        )
    return dice.pick(
        (
            "beneath a clear, soft blue sky",
            "under a cloudless blue sky",
            "with a clear sky above and crisp shadows on every roof",
        )
    )
