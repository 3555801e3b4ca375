"""Scenes of every institution, in some cities that differ in script, season, side and units."""

from worldloop.atlas.atlas import load_atlas
from worldloop.scenes.casting import cast_scenes

ATLAS = load_atlas()
PLACES = [
    f"{city}/{institution}"
    for city in list(ATLAS.cities)[::7]
    for institution in ATLAS.institutions
    if ATLAS.has(city, institution)
]
SCENES = [
    *cast_scenes(ATLAS, PLACES, range(len(PLACES))),
    *cast_scenes(ATLAS, PLACES, range(10_000, 10_000 + len(PLACES))),
]
ASKED = ("drive", "drone", "birds_eye")
STREETS = [place for place in PLACES if place.endswith("/street")] * len(ASKED)
STREET_SCENES = cast_scenes(
    ATLAS,
    STREETS,
    range(len(STREETS)),
    [{"camera": ASKED[index * len(ASKED) // len(STREETS)]} for index in range(len(STREETS))],
)
SCENES += STREET_SCENES
