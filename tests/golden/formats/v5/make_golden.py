"""Writes the files whose format came with the atlas of 240 cities: `python -m tests.golden.formats.v5.make_golden`.

What is not here is in the folders beside. When one of these formats changes, this folder stays as it
is, this script refuses to run, and the next version gets a folder and a script of its own.
"""

from pathlib import Path

from worldloop.atlas.records import Sign
from worldloop.recipes import Shape
from worldloop.scenes.scene import (
    SCENE_VERSION,
    Detail,
    Dress,
    Drive,
    Role,
    Scene,
    Subject,
)
from worldloop.seeds import canonical_json
from worldloop.waves import PLAN_VERSION, PlannedClip, WavePlan

FOLDER = Path(__file__).parent
VERSIONS = {"plan": 3, "scene": 2}


def make_plan() -> WavePlan:
    """Two clips, one of which was asked for values."""
    asked = {"season": "winter", "camera": "drone"}
    clips = (
        PlannedClip(0, "tokyo", "zoo", 7),
        PlannedClip(1, "lima", "park", 8, asked),
    )
    return WavePlan("w0001", "0" * 32, 5, "procedural", Shape(), clips)


def make_scene() -> Scene:
    """A scene with every field of version 2."""
    return Scene(
        city="tokyo",
        institution="street",
        seed=7,
        date="2026-11-03",
        hour=17.25,
        sun_elevation_deg=-6.8,
        sun_azimuth_deg=251.9,
        season="autumn",
        weather="rain",
        climate="Cfa",
        driving_side="left",
        crowd="crowded",
        roles=(Role("pedestrian", 18, Dress("jacket")),),
        subjects=(Subject("car", 8), Subject("bus", 1), Subject("tree", 5)),
        signs=(Sign("pharmacy", "薬局", "ja"),),
        style={"facade": "concrete", "era": "modern"},
        camera="drive",
        day="holiday",
        holiday="Culture Day",
        daypart="night",
        category="driving",
        activity="driving",
        script=("a car waits", "a light changes", "the car moves off"),
        details=(Detail("furniture", "a row of vending machines"),),
        drive=Drive("avenue", "dense", 30, "turning left", "footbridge", "white lane lines"),
    )


def write_all(folder: Path) -> None:
    """Write every file."""
    (folder / "plan.json").write_bytes(canonical_json(make_plan().to_record()))
    scene = make_scene()
    record = {"scene_id": scene.scene_id, **scene.to_record()}
    (folder / "scene.json").write_bytes(canonical_json(record))


def main() -> None:
    """Write the files, if the code still writes these versions."""
    written = {"plan": PLAN_VERSION, "scene": SCENE_VERSION}
    assert written == VERSIONS, f"{written} changed; write them into a folder of their own"
    write_all(FOLDER)


if __name__ == "__main__":
    main()
