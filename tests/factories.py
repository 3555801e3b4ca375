"""Scenes made by hand, with a seed, for tests and experiments."""

from typing import Any

from worldloop.atlas.records import Sign
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.scene import Dress, Role, Scene, Subject

CASTS: dict[str, dict[str, Any]] = {
    "street": {
        "roles": (
            Role("pedestrian", 14, Dress()),
            Role("police officer", 1, Dress("uniform", head="cap", color="navy"), "standing"),
        ),
        "subjects": (Subject("car", 8), Subject("bus", 1), Subject("tree", 10)),
        "signs": (
            Sign("street", "", "ja"),
            Sign("pharmacy", "薬局", "ja"),
            Sign("restaurant", "レストラン", "ja"),
            Sign("hotel", "ホテル", "ja"),
        ),
    },
    "hospital": {
        "roles": (
            Role("nurse", 3, Dress("scrubs", color="teal")),
            Role("doctor", 1, Dress("coat", color="white")),
            Role("patient", 4, Dress("robe", "robe", color="pale blue"), "lying"),
        ),
        "subjects": (Subject("bed", 8), Subject("infusion stand", 5), Subject("curtain", 8)),
        "signs": (
            Sign("hospital", "病院", "ja"),
            Sign("ward", "病棟", "ja"),
            Sign("exit", "出口", "ja"),
        ),
    },
    "zoo": {
        "roles": (
            Role("visitor", 9, Dress()),
            Role("keeper", 1, Dress("uniform", head="cap", color="khaki")),
        ),
        "subjects": (Subject("elephant", 2), Subject("giraffe", 2), Subject("zebra", 3)),
        "signs": (
            Sign("zoo", "動物園", "ja"),
            Sign("elephant", "ゾウ", "ja"),
            Sign("exit", "出口", "ja"),
        ),
    },
    "museum": {
        "roles": (
            Role("visitor", 7, Dress("jacket")),
            Role("guard", 1, Dress("uniform", head="none", color="black"), "standing"),
        ),
        "subjects": (Subject("painting", 14), Subject("sculpture", 3)),
        "signs": (Sign("museum", "博物館", "ja"), Sign("exit", "出口", "ja")),
    },
    "amusement_park": {
        "roles": (
            Role("visitor", 16, Dress()),
            Role("ride attendant", 1, Dress("uniform", head="cap", color="red"), "standing"),
        ),
        "subjects": (
            Subject("ferris wheel", 1),
            Subject("carousel", 1),
            Subject("roller coaster", 1),
            Subject("stall", 4),
        ),
        "signs": (Sign("amusement_park", "遊園地", "ja"), Sign("ticket", "きっぷ売り場", "ja")),
    },
}


def make_scene(institution: str = "street", **changes: Any) -> Scene:
    """A plain scene of Tokyo at one of the five institutions; name a field to change it."""
    facts: dict[str, Any] = {
        "city": "tokyo",
        "institution": institution,
        "seed": 7,
        "date": "2026-05-14",
        "hour": 15.5,
        "sun_elevation_deg": 38.0,
        "sun_azimuth_deg": 250.0,
        "season": "spring",
        "weather": "clear",
        "climate": "Cfa",
        "driving_side": "left",
        "crowd": "lively",
        "style": {},
        "camera": "stroll",
        **CASTS[institution],
    }
    return Scene(**{**facts, **changes})


def make_recipe(institution: str = "street", **shape: int) -> Recipe:
    """A small recipe: 5 frames of 64x36 at 1 sample unless told otherwise."""
    small = {"num_frames": 5, "width_px": 64, "height_px": 36, "num_samples": 1, **shape}
    return Recipe(make_scene(institution), Shape(**small))
