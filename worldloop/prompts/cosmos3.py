"""A scene as the structured prompt of Cosmos 3, which its fine-tuning loader calls `caption_json`.

Field names follow NVIDIA/cosmos, cookbooks/cosmos3/generator/audiovisual; every value restates a
fact of the scene. Lengths are in frames and seconds of the clip that is asked for.
"""

import itertools
from math import gcd
from typing import Any

from worldloop.atlas.atlas import Atlas, City
from worldloop.prompts.captions import short_caption
from worldloop.prompts.prose import write_prose
from worldloop.prompts.words import (
    CROWDS,
    NAMES,
    an,
    capital,
    clock,
    clothes,
    compass,
    daypart,
    person,
    thing,
    things,
    weather_word,
    when,
)
from worldloop.recipes import Shape
from worldloop.scenes.scene import Role, Scene, Sign, Subject

CAMERAS = {
    "stroll": "Slow, steady walk forward at eye level",
    "tour": "Slow walk forward at eye level, turning gently to both sides",
    "wander": "Free first-person movement at eye level, as a player would walk and look around",
}
STILL = ("tree", "bench", "lamp", "stall", "balloon")
WINDOW_S = 2.0  # about how long one entry of `actions` lasts
PERSON = {"number_of_arms": 2, "number_of_legs": 2, "number_of_hands": 2, "number_of_fingers": 10}
LOCATIONS = {
    "street": "along the sidewalks",
    "hospital": "between the rows of beds",
    "zoo": "on the visitors' path",
    "museum": "in the galleries",
    "amusement_park": "on the paths between the rides",
}


def cosmos3_prompt(scene: Scene, atlas: Atlas, shape: Shape) -> dict[str, Any]:
    """The structured prompt of a scene.

    Args:
        scene: A scene of one of the castable institutions.
        atlas: For names and scripts.
        shape: Size, length and rate of the clip that is asked for.

    Returns:
        JSON values only; the same scene and shape give the same object.
    """
    prose = write_prose(scene, atlas)
    windows = _windows(shape.duration_s)
    divisor = gcd(shape.width_px, shape.height_px)
    return {
        "subjects": [_people(scene, role) for role in scene.roles]
        + [_thing(scene, subject) for subject in scene.subjects],
        "background_setting": _background(scene, atlas.city(scene.city), atlas),
        "lighting": _lighting(scene, indoors=_indoors(scene, atlas)),
        "aesthetics": _aesthetics(scene, indoors=_indoors(scene, atlas)),
        "cinematography": {
            "camera_motion": CAMERAS[scene.camera],
            "framing": "Wide shot",
            "camera_angle": "Eye-level",
            "depth_of_field": "Deep",
            "focus": "Everything from the foreground to the distance is in focus",
            "lens_focal_length": "Wide-angle",
        },
        "style_medium": "Live-action video",
        "artistic_style": "Realistic, documentary, first-person exploration",
        "context": capital(f"{short_caption(scene, atlas)}."),
        "actions": [
            {"time": time, "description": _action(scene, index)}
            for index, time in enumerate(windows)
        ],
        "text_and_signage_elements": [
            _sign(scene, sign, atlas) for sign in scene.signs if sign.text
        ],
        "segments": [
            {
                "segment_index": 0,
                "time_range": f"0:00-{_stamp(shape.duration_s)}",
                "description": capital(f"{short_caption(scene, atlas, variant=1)}."),
                "key_changes": "One continuous shot; people and things keep moving as they did",
                "camera": CAMERAS[scene.camera],
            }
        ],
        "transitions": [],
        "temporal_caption": f"{prose} {_ending(scene, shape.duration_s)}",
        "resolution": {"H": shape.height_px, "W": shape.width_px},
        "aspect_ratio": f"{shape.width_px // divisor},{shape.height_px // divisor}",
        "duration": f"{round(shape.duration_s, 1):g}s",
        "fps": shape.rate_fps,
    }


def _indoors(scene: Scene, atlas: Atlas) -> bool:
    """Whether there is a roof over it."""
    return atlas.institution(scene.institution).setting == "indoor"


def _people(scene: Scene, role: Role) -> dict[str, Any]:
    """The people of one role as one subject."""
    return {
        "description": capital(person(role)),
        "appearance_details": f"{_age(role, many=True)} in {clothes(role)}, natural proportions",
        "relationship": f"Among the people of {an(CROWDS[scene.crowd])} {scene.institution.replace('_', ' ')}",
        "location": capital(LOCATIONS[scene.institution]),
        "relative_size": "Small to medium in the frame",
        "orientation": "Facing various directions" if role.count > 1 else "Varies",
        "pose": capital(role.action),
        "action": capital(role.action),
        "state_changes": "None",
        "clothing": capital(clothes(role)),
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
    if role.name == "child":
        return "Children" if many else "Child"
    return "Adults" if many else "Adult"


def _thing(scene: Scene, subject: Subject) -> dict[str, Any]:
    """Animals, vehicles, rides or furniture of one kind as one subject."""
    return {
        "description": capital(thing(subject)),
        "appearance_details": "True to its kind in shape, size and color",
        "relationship": _relationship(scene, subject),
        "location": "",
        "relative_size": "",
        "orientation": "",
        "pose": capital(subject.trait),
        "action": _motion_of(scene, subject),
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


def _relationship(scene: Scene, subject: Subject) -> str:
    """How a thing belongs to the place."""
    if scene.institution == "street":
        side = scene.driving_side
        return "Beside the road" if subject.kind in STILL else f"Traffic that keeps to the {side}"
    return {
        "hospital": "Furnishing of the ward",
        "zoo": "Animals in an enclosure of their own",
        "museum": "On view in the galleries",
    }.get(scene.institution, "Part of the amusement park")


def _motion_of(scene: Scene, subject: Subject) -> str:
    """What a thing may do without contradicting the scene."""
    if scene.institution == "zoo":
        return f"{capital(subject.trait or 'moving')} calmly inside the enclosure"
    if scene.institution == "street" and subject.kind not in STILL:
        return f"Driving or standing on the {scene.driving_side} side of its direction of travel"
    moves = scene.institution == "amusement_park" and subject.kind not in STILL
    return "Turning or running smoothly" if moves else "Still"


def _background(scene: Scene, city: City, atlas: Atlas) -> str:
    """Place, style and weather in a sentence or two."""
    kind = atlas.institution(scene.institution)
    traits = ", ".join(f"{key}: {value}" for key, value in sorted(scene.style.items()))
    style = f" Materials and style: {traits}." if traits else ""
    sky = "" if kind.setting == "indoor" else f" The weather is {weather_word(scene)}."
    side = f" Traffic keeps to the {scene.driving_side}." if scene.institution == "street" else ""
    return (
        f"{capital(an(kind.name))} in {city.name}, {city.country_name}, {when(scene)} in "
        f"{'the ' if ' ' in scene.season else ''}{scene.season}.{sky}{side}{style}"
    )


def _lighting(scene: Scene, *, indoors: bool) -> dict[str, str]:
    """Light from lamps, or from the sun where astronomy has it."""
    if indoors:
        return {
            "conditions": "Even artificial light",
            "direction": "From the ceiling",
            "shadows": "Soft and faint",
            "illumination_effect": "Bright, balanced exposure",
        }
    if scene.is_night:
        return {
            "conditions": f"Night, {weather_word(scene)}, lit by lamps",
            "direction": "From lamps above the paths and from windows",
            "shadows": "Soft, around each lamp",
            "illumination_effect": "Pools of warm light in the dark",
        }
    covered = scene.weather != "clear"
    height, where = scene.sun_elevation_deg, compass(scene.sun_azimuth_deg)
    return {
        "conditions": f"{capital(weather_word(scene))} daylight, {daypart(scene)}, {clock(scene)}",
        "direction": "Diffuse, from the whole sky"
        if covered
        else f"Sun in the {where}, {max(0, round(height))} degrees above the horizon",
        "shadows": "Faint and soft" if covered else _shadows(height),
        "illumination_effect": "Muted colors" if covered else "Bright sunlit surfaces",
    }


def _shadows(sun_elevation_deg: float) -> str:
    """Length of shadows under a clear sky."""
    if sun_elevation_deg < 0.5:
        return "None, the sun is at the horizon"
    return next(
        (
            name
            for limit, name in ((12, "Very long"), (35, "Long"), (55, "Medium"))
            if sun_elevation_deg < limit
        ),
        "Short",
    )


def _aesthetics(scene: Scene, *, indoors: bool) -> dict[str, str]:
    """Composition, colours and mood."""
    if indoors:
        colors = scene.style.get("wall") or scene.style.get("accent") or "neutral"
        scheme = f"{capital(colors)} and white" if colors != "white" else "White and wood tones"
    else:
        scheme = "Warm lamp light on dark tones" if scene.is_night else "Natural daylight colors"
        scheme = "Muted grays and greens" if scene.weather in ("fog", "snow") else scheme
    return {
        "composition": "Depth along a path, with near and far things in view",
        "color_scheme": scheme,
        "mood_atmosphere": f"{capital(CROWDS[scene.crowd])}, everyday",
        "patterns": "None",
    }


def _sign(scene: Scene, sign: Sign, atlas: Atlas) -> dict[str, str]:
    """One sign, letter for letter."""
    language = atlas.languages[sign.language]
    english = atlas.words.get(sign.word, sign.word)
    spatial = "Above a shop front" if scene.institution == "street" else "On a board by the way"
    return {
        "text": sign.text,
        "category": "sign",
        "appearance": f"Bold sans-serif letters, {language.name} ({language.script})",
        "spatial": spatial,
        "context": f"It says {NAMES.get(english, english)}",
    }


def _windows(duration_s: float) -> list[str]:
    """Times of the actions: equal windows of about `WINDOW_S`."""
    count = max(1, round(duration_s / WINDOW_S))
    edges = [_stamp(duration_s * k / count) for k in range(count + 1)]
    return [f"{start}-{end}" for start, end in itertools.pairwise(edges)]


def _stamp(seconds: float) -> str:
    """Minutes and seconds, with a tenth where it matters: `0:02.5`."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    whole, tenth = divmod(rest, 10)
    return f"{minutes}:{whole:02d}" + (f".{tenth}" if tenth else "")


def _action(scene: Scene, index: int) -> str:
    """What happens in one window: all roles and things in turn, whatever the length."""
    told = [f"{capital(person(role))}: {role.action}" for role in scene.roles]
    told += [
        f"{capital(things([subject]))}: {_motion_of(scene, subject).lower()}"
        for subject in scene.subjects
    ]
    return f"{told[index % len(told)]}. {CAMERAS[scene.camera]}."


def _ending(scene: Scene, duration_s: float) -> str:
    """How it ends: as it began, since a clip is one moment."""
    return (
        f"Over {round(duration_s, 1):g} seconds the shot stays continuous, weather and light "
        "do not change, and every sign keeps its letters."
    )
