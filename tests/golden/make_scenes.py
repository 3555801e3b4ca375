"""Write the golden scenes and city keys anew: `python -m tests.golden.make_scenes`.

The folder `scenes/v1` holds scenes of version 1 and is never written again.
"""

import json
from pathlib import Path

from worldloop.atlas.atlas import load_atlas
from worldloop.scenes.casting import cast_scene

GOLDEN = Path(__file__).parent
PLACES = ("tokyo/zoo", "mumbai/street", "lusaka/hospital", "oslo/library")
SEED = 7


def main() -> None:
    """One JSON file per place, and the keys of all cities in their order."""
    atlas = load_atlas()
    for place in PLACES:
        scene = cast_scene(atlas, place=place, seed=SEED)
        text = json.dumps(
            {"scene_id": scene.scene_id, **scene.to_record()}, indent=1, ensure_ascii=False
        )
        (GOLDEN / "scenes" / f"{place.replace('/', '-')}.json").write_text(
            f"{text}\n", encoding="utf-8"
        )
    (GOLDEN / "city_keys.txt").write_text("\n".join([*atlas.cities, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
