"""A scene as the structured prompt of Cosmos 3, which its fine-tuning loader calls `caption_json`.

Field names follow NVIDIA/cosmos, cookbooks/cosmos3/generator/audiovisual; every value restates a
fact of the scene. Lengths are in frames and seconds of the clip that is asked for.
"""

import itertools
from functools import cache, lru_cache
from math import gcd
from typing import Any

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import Institution
from worldloop.prompts.cameras import camera_phrase
from worldloop.prompts.dice import dice_of
from worldloop.prompts.places import where, words_of
from worldloop.prompts.prose import activity_of, told_details, write_prose
from worldloop.prompts.roads import DENSITY_WORDS, FULLNESS, open_road, speed_text
from worldloop.prompts.skies import HORIZON_DEG, is_dim
from worldloop.prompts.times import is_nameless
from worldloop.prompts.words import (
    KINDS,
    NAMES,
    an,
    capital,
    clock,
    clothes,
    compass,
    crowd_word,
    daypart,
    person,
    thing,
    things,
    weather_word,
    when,
)
from worldloop.recipes import Shape
from worldloop.scenes.scene import Role, Scene, Subject

CAMERAS = {
    "stroll": "Slow, steady walk forward at eye level",
    "tour": "Slow walk forward at eye level, turning gently to both sides",
    "wander": "Free first-person movement at eye level, as a player would walk and look around",
    "still": "Static shot, no camera movement",
    "drive": "Smooth forward motion of a car, seen through its windscreen",
    "drone": "Slow, level drone flight at low height",
    "birds_eye": "Slow glide high above, looking down",
}
ANGLES = {
    "drone": ("Wide aerial shot", "High-angle"),
    "birds_eye": ("Extreme wide aerial shot", "Bird's-eye"),
    "drive": ("Wide shot", "From the driver's seat"),
}
"""Framing and angle of cameras that are not at eye level."""
STILL = ("tree", "bench", "lamp", "stall", "balloon")
ANIMALS_AT = "zoo"
WINDOW_S = 2.0  # about how long one entry of `actions` lasts
PERSON = {"number_of_arms": 2, "number_of_legs": 2, "number_of_hands": 2, "number_of_fingers": 10}
LOCATIONS = {
    "street": "along the pavements",
    "hospital": "between the rows of beds",
    "zoo": "on the visitors' path",
    "museum": "in the galleries",
    "amusement_park": "on the paths between the rides",
}
_ENDINGS = (
    "Over {s} seconds the shot stays continuous, and every sign keeps its letters.",
    "The shot runs for {s} seconds without a cut; light and weather stay as they are.",
    "Nothing is cut in these {s} seconds, and letters on signs do not change.",
    "It lasts {s} seconds in a single take, under the same light throughout.",
)
_INDOOR_LIGHT = {
    "conditions": "Even artificial light",
    "direction": "From the ceiling",
    "shadows": "Soft and faint",
    "illumination_effect": "Bright, balanced exposure",
}
_DIM_LIGHT = {
    "conditions": "Dim artificial light",
    "direction": "From a few small lamps",
    "shadows": "Deep and soft",
    "illumination_effect": "Half-light, with bright spots near the lamps",
}
_CACHED = 4096  # records of people and things; a few hundred bytes each


def cosmos3_prompt(scene: Scene, atlas: Atlas, shape: Shape, *, prose: str = "") -> dict[str, Any]:
    """The structured prompt of a scene.

    Args:
        scene: A scene of any institution.
        atlas: For names and scripts.
        shape: Size, length and rate of the clip that is asked for.
        prose: The scene in prose; `write_prose` is asked when it is empty.

    Returns:
        JSON values only; the same scene and shape give the same object.
    """
    prose = prose or write_prose(scene, atlas)
    kind, activity = atlas.institution(scene.institution), activity_of(scene, atlas)
    fullness, name = _fullness(scene, atlas), _name(scene, kind, atlas)
    told = f"{capital(an(fullness))} {name} in {where(atlas, scene.city)}, {when(scene)}."
    happens = capital(f"{activity.says}.") if activity else told
    indoors = kind.setting == "indoor"
    divisor = gcd(shape.width_px, shape.height_px)
    framing, angle = ANGLES.get(scene.camera, ("Wide shot", "Eye-level"))
    duration = f"{round(shape.duration_s, 1):g}"
    dice = dice_of(scene, "cosmos3")
    place = words_of(kind).short[0]
    return {
        "subjects": [_people(scene.crowd, scene.institution, place, role) for role in scene.roles]
        + [_thing(scene.institution, scene.driving_side, subject) for subject in scene.subjects],
        "background_setting": _background(scene, kind, atlas),
        "lighting": _lighting(scene, indoors=indoors),
        "aesthetics": _aesthetics(scene, fullness, indoors=indoors),
        "cinematography": {
            "camera_motion": CAMERAS[scene.camera],
            "framing": framing,
            "camera_angle": angle,
            "depth_of_field": "Deep",
            "focus": "Everything from the foreground to the distance is in focus",
            "lens_focal_length": "Wide-angle",
        },
        "style_medium": "Live-action video",
        "artistic_style": _artistic_style(scene),
        "context": f"{told} {happens}" if activity else told,
        "actions": _actions(scene, shape.duration_s),
        "text_and_signage_elements": _signs(scene, atlas),
        "segments": [
            {
                "segment_index": 0,
                "time_range": f"0:00-{_stamp(shape.duration_s)}",
                "description": happens,
                "key_changes": "One continuous shot; people and things keep moving as they did",
                "camera": f"{CAMERAS[scene.camera]}; {camera_phrase(scene, dice)}",
            }
        ],
        "transitions": [],
        "temporal_caption": f"{prose} {dice.pick(_ENDINGS).replace('{s}', duration)}",
        "resolution": {"H": shape.height_px, "W": shape.width_px},
        "aspect_ratio": f"{shape.width_px // divisor},{shape.height_px // divisor}",
        "duration": f"{duration}s",
        "fps": shape.rate_fps,
    }


def _fullness(scene: Scene, atlas: Atlas) -> str:
    """How full the place is, or the road where nobody walks beside it."""
    if scene.drive and open_road(scene, atlas):
        return FULLNESS[scene.drive.density]
    return crowd_word(scene.crowd, is_staffed=bool(scene.roles))


def _name(scene: Scene, kind: Institution, atlas: Atlas) -> str:
    """The institution, or the road where nobody walks beside it."""
    road = open_road(scene, atlas)
    return road.name if road else kind.name


def _artistic_style(scene: Scene) -> str:
    """How it looks, after the camera."""
    if scene.camera in ("drone", "birds_eye"):
        return "Realistic, documentary, aerial"
    return f"Realistic, documentary, {'observational' if scene.camera == 'still' else 'first-person exploration'}"


def _people(crowd: str, institution: str, place: str, role: Role) -> dict[str, Any]:
    """The people of one role as one subject."""
    return _person_record(crowd, institution, place, role).copy()


@lru_cache(_CACHED)
def _person_record(crowd: str, institution: str, place: str, role: Role) -> dict[str, Any]:
    worn = clothes(role)
    return {
        "description": capital(person(role)),
        "appearance_details": f"{_age(role, many=True)} in {worn}, natural proportions",
        "relationship": f"Among the people of {an(crowd_word(crowd, is_staffed=True))} {institution.replace('_', ' ')}",
        "location": capital(LOCATIONS.get(institution, f"in the {place}")),
        "relative_size": "Small to medium in the frame",
        "orientation": "Facing various directions" if role.count > 1 else "Varies",
        "pose": capital(role.action),
        "action": capital(role.action),
        "state_changes": "None",
        "clothing": capital(worn),
        "expression": "Neutral",
        "gender": "",
        "age": _age(role, many=False),
        "skin_tone_and_texture": "Varied, natural" if role.count > 1 else "Natural",
        "facial_features": "",
        "number_of_subjects": role.count,
        **PERSON,
    }


def _age(role: Role, *, many: bool) -> str:
    """Adults, but for children."""
    if role.name in ("child", "pupil"):
        return "Children" if many else "Child"
    return "Adults" if many else "Adult"


def _thing(institution: str, side: str, subject: Subject) -> dict[str, Any]:
    """Animals, vehicles, rides or furniture of one kind as one subject."""
    return _thing_record(institution, side, subject).copy()


@lru_cache(_CACHED)
def _thing_record(institution: str, side: str, subject: Subject) -> dict[str, Any]:
    return {
        "description": capital(thing(subject)),
        "appearance_details": "True to its kind in shape, size and colour",
        "relationship": _relationship(institution, side, subject),
        "location": "",
        "relative_size": "",
        "orientation": "",
        "pose": capital(subject.trait),
        "action": _motion_of(institution, side, subject),
        "state_changes": "None",
        "clothing": "",
        "expression": "",
        "gender": "",
        "age": "",
        "skin_tone_and_texture": "",
        "facial_features": "",
        "number_of_subjects": subject.count,
        **dict.fromkeys(PERSON, 0),
    }


def _relationship(institution: str, side: str, subject: Subject) -> str:
    """How a thing belongs to the place."""
    if institution == "street":
        return "Beside the road" if subject.kind in STILL else f"Traffic that keeps to the {side}"
    return {
        "hospital": "Furnishing of the ward",
        "zoo": "Animals in an enclosure of their own",
        "museum": "On view in the galleries",
        "amusement_park": "Part of the amusement park",
    }.get(institution, f"Part of the {institution.replace('_', ' ')}")


def _motion_of(institution: str, side: str, subject: Subject) -> str:
    """What a thing may do without contradicting the scene."""
    if institution == ANIMALS_AT and subject.kind in KINDS:
        return f"{capital(subject.trait or 'moving')} calmly inside the enclosure"
    if institution == "street" and subject.kind not in STILL and subject.kind in KINDS:
        return f"Driving or standing on the {side} side of its direction of travel"
    moves = institution == "amusement_park" and subject.kind in KINDS and subject.kind not in STILL
    return "Turning or running smoothly" if moves else "Still"


def _background(scene: Scene, kind: Institution, atlas: Atlas) -> str:
    """Place, time, weather, style and decorum in a few sentences."""
    season = f"the {scene.season}" if " " in scene.season else scene.season
    said = [
        f"{capital(an(_name(scene, kind, atlas)))} in {where(atlas, scene.city)}, {when(scene)} in {season}, at {clock(scene)}"
    ]
    if scene.holiday:
        name = "" if is_nameless(scene.holiday) else f", {scene.holiday}"
        said.append(f"The day is a public holiday{name}")
    outside = "outside " if kind.setting == "indoor" else ""
    said.append(f"The weather {outside}is {weather_word(scene)}")
    if scene.institution == "street":
        said.append(f"Traffic keeps to the {scene.driving_side}")
    if scene.drive:
        drive = scene.drive
        structure = f"; ahead is {an(drive.structure)}" if drive.structure else ""
        said.append(
            f"The own car is on {an(atlas.roads[drive.road].name)} at {speed_text(atlas, scene, drive)}, "
            f"{DENSITY_WORDS[drive.density][0]}, {drive.manoeuvre}{structure}; road markings: {drive.markings}"
        )
    if scene.style and not open_road(scene, atlas):
        traits = [f"{key.replace('_', ' ')}: {scene.style[key]}" for key in sorted(scene.style)]
        said.append(f"Materials and style: {', '.join(traits)}")
    said += [
        f"{capital(detail.slot.replace('_', ' '))}: {detail.says}" for detail in told_details(scene)
    ]
    return f"{'. '.join(said)}."


def _lighting(scene: Scene, *, indoors: bool) -> dict[str, str]:
    """Light from lamps, or from the sun where astronomy has it."""
    if indoors:
        return dict(_DIM_LIGHT if is_dim(scene) else _INDOOR_LIGHT)
    if scene.is_night:
        return {
            "conditions": f"Night, {weather_word(scene)}, lit by lamps",
            "direction": "From lamps above the paths and from windows",
            "shadows": "Soft, around each lamp",
            "illumination_effect": "Pools of warm light in the dark",
        }
    covered = scene.weather != "clear"
    height, where = scene.sun_elevation_deg, compass(scene.sun_azimuth_deg)
    if covered:
        told = "Diffuse, from the whole sky", "Faint and soft", "Muted colours"
    elif height < HORIZON_DEG:
        told = (
            f"From the glow on the horizon in the {where}",
            "None, the sun is at the horizon",
            "Soft twilight colours",
        )
    else:
        told = (
            f"Sun in the {where}, {round(height)} degrees above the horizon",
            _shadows(height),
            "Bright sunlit surfaces",
        )
    return {
        "conditions": f"{capital(weather_word(scene))} daylight, {daypart(scene)}, {clock(scene)}",
        **dict(zip(("direction", "shadows", "illumination_effect"), told, strict=True)),
    }


def _shadows(sun_elevation_deg: float) -> str:
    """Length of shadows in sunlight."""
    return next(
        (
            name
            for limit, name in ((12, "Very long"), (35, "Long"), (55, "Medium"))
            if sun_elevation_deg < limit
        ),
        "Short",
    )


def _aesthetics(scene: Scene, fullness: str, *, indoors: bool) -> dict[str, str]:
    """Composition, colours and mood."""
    if indoors:
        colors = scene.style.get("wall") or scene.style.get("accent") or "neutral"
        scheme = f"{capital(colors)} and white" if colors != "white" else "White and wood tones"
    else:
        scheme = "Warm lamp light on dark tones" if scene.is_night else "Natural daylight colours"
        if scene.weather in ("fog", "snow") and not scene.is_night:
            scheme = "Muted greys and greens"
    return {
        "composition": "Depth along a path, with near and far things in view",
        "color_scheme": scheme,
        "mood_atmosphere": f"{capital(fullness)}, everyday",
        "patterns": "None",
    }


def _signs(scene: Scene, atlas: Atlas) -> list[dict[str, str]]:
    """The signs, letter for letter."""
    look = next((one.says for one in scene.details if one.slot == "sign_style"), "")
    spatial = "Above a shop front" if scene.institution == "street" else "On a board by the way"
    if open_road(scene, atlas):
        spatial = "On a road sign"
    appearance = capital(look) or "Bold sans-serif letters"
    told = []
    for sign in scene.signs:
        if sign.text:
            language = atlas.languages[sign.language]
            english = atlas.words.get(sign.word, sign.word)
            told.append(
                {
                    "text": sign.text,
                    "category": "sign",
                    "appearance": f"{appearance}; {language.name} ({language.script})",
                    "spatial": spatial,
                    "context": f"It says {NAMES.get(english, english)}",
                }
            )
    return told


@cache
def _windows(duration_s: float) -> list[str]:
    """Times of the actions: equal windows of about `WINDOW_S`."""
    count = max(1, round(duration_s / WINDOW_S))
    edges = [_stamp(duration_s * k / count) for k in range(count + 1)]
    return [f"{start}-{end}" for start, end in itertools.pairwise(edges)]


@cache
def _stamp(seconds: float) -> str:
    """Minutes and seconds, with a tenth where it matters: `0:02.5`."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    whole, tenth = divmod(rest, 10)
    return f"{minutes}:{whole:02d}" + (f".{tenth}" if tenth else "")


def _actions(scene: Scene, duration_s: float) -> list[dict[str, str]]:
    """What happens in each window: the steps of the script in order, else people and things in turn."""
    times = _windows(duration_s)
    if scene.script:
        told = _spread([f"{capital(step)}." for step in scene.script], len(times))
        if scene.drive:
            told[-1] = f"{told[-1]} The own car is {scene.drive.manoeuvre}."
    else:
        parts = [f"{capital(person(role))}: {role.action}" for role in scene.roles]
        parts += [
            f"{capital(things([one]))}: {_motion_of(scene.institution, scene.driving_side, one).lower()}"
            for one in scene.subjects
        ]
        told = [f"{parts[index % len(parts)]}." for index in range(len(times))]
    return [
        {"time": time, "description": f"{text} {CAMERAS[scene.camera]}."}
        for time, text in zip(times, told, strict=True)
    ]


def _spread(steps: list[str], num: int) -> list[str]:
    """Steps over some windows in their order; several in one, or one in several, as it comes out."""
    if num >= len(steps):
        return [steps[index * len(steps) // num] for index in range(num)]
    edges = [len(steps) * index // num for index in range(num + 1)]
    return [" ".join(steps[first:last]) for first, last in itertools.pairwise(edges)]
