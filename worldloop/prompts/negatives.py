"""What guidance leads away from: faults of any video, and what would be false at the place of a scene.

The default of the prose families is the published text in `worldloop/cosmos/families.py`; these
texts are for plans whose `negative_prompt` is `local`. The structured one follows the schema of `cosmos3_prompt`.
"""

from typing import Any

from worldloop.atlas.atlas import Atlas
from worldloop.prompts.words import joined
from worldloop.scenes.scene import Scene

NEGATIVE_PROMPT = (
    "Blurry or noisy picture, over-sharpened edges, blown highlights, crushed shadows, flicker, "
    "sudden cuts, jerky or sliding motion, people or animals with extra or missing limbs, melting "
    "shapes, objects that pass through each other, floating objects, unreadable or invented "
    "letters on signs, traffic on the wrong side of the road, subtitles, logos and watermarks."
)
_OTHER_WEATHER = {
    "clear": "rain, fog or snow",
    "cloudy": "hard sunlight, rain or snow",
    "rain": "dry ground, sunshine or snow",
    "fog": "a clear view into the distance, sunshine or rain",
    "snow": "green summer trees, rain or bare dry ground",
}


def negative_prose(scene: Scene, atlas: Atlas) -> str:
    """Faults of any video and what would be false here, in prose.

    Args:
        scene: What the clip shows.
        atlas: For names of languages and settings.
    """
    return f"{NEGATIVE_PROMPT} {_false_here(scene, atlas)}"


def cosmos3_negative_prompt(
    scene: Scene, atlas: Atlas, *, width_px: int, height_px: int
) -> dict[str, Any]:
    """Faults of any video and what would be false here, with the keys of `cosmos3_prompt`.

    Args:
        scene: What the clip shows.
        atlas: For names of languages and settings.
        width_px: Width of the clip.
        height_px: Height of the clip.
    """
    false_here = _false_here(scene, atlas)
    return {
        "subjects": [
            {
                "description": "People, animals or things with melting, doubled or missing parts",
                "appearance_details": "Extra fingers, fused limbs, waxy skin, distorted faces",
                "action": "Sliding without steps, passing through each other, popping in or out",
                "state_changes": "Changing number, clothes or identity from frame to frame",
            }
        ],
        "background_setting": f"Warping walls, floating objects, impossible perspective. {false_here}",
        "lighting": {
            "conditions": "Blown highlights, crushed shadows, flickering exposure",
            "direction": "Contradicting sources",
            "shadows": "Shadows that point different ways or belong to nothing",
            "illumination_effect": "Glow that nothing causes",
        },
        "aesthetics": {
            "composition": "Cluttered, tilted or cropped without reason",
            "color_scheme": "Over-saturated or washed out",
            "mood_atmosphere": "Artificial",
            "patterns": "Colour banding, moire, compression blocks",
        },
        "cinematography": {
            "camera_motion": "Shake, sudden jumps, cuts",
            "framing": "Jumping between framings",
            "camera_angle": "Changing without motion",
            "depth_of_field": "Random blur",
            "focus": "Hunting or soft focus",
            "lens_focal_length": "Extreme fisheye",
        },
        "style_medium": "Cartoon, drawing, video game, slideshow",
        "artistic_style": "Over-processed, plastic, low quality",
        "context": false_here,
        "actions": [
            {"time": "throughout", "description": "Jerky, reversed, frozen or repeated motion"}
        ],
        "text_and_signage_elements": [
            {
                "text": "",
                "category": "sign",
                "appearance": "Unreadable, mirrored or invented letters",
                "spatial": "Letters that float or slide over surfaces",
                "context": "Subtitles, logos and watermarks",
            }
        ],
        "segments": [],
        "transitions": ["Cuts, fades, wipes and dissolves"],
        "temporal_caption": f"{NEGATIVE_PROMPT} {false_here}",
        "resolution": {"H": height_px, "W": width_px},
        "physical_realism": "Broken gravity, liquids that climb, feet that do not touch the ground",
    }


def _false_here(scene: Scene, atlas: Atlas) -> str:
    """What would contradict the scene, in one or two sentences."""
    said = []
    if atlas.institution(scene.institution).setting == "outdoor":
        said += ["daylight"] if scene.is_night else ["a night sky"]
        said.append(_OTHER_WEATHER[scene.weather])
    if scene.institution == "street":
        wrong = "left" if scene.driving_side == "right" else "right"
        said.append(f"vehicles that drive on the {wrong}")
    if scene.crowd == "empty":
        said.append("a crowd")
    languages = dict.fromkeys(
        atlas.languages[sign.language].name for sign in scene.signs if sign.text
    )
    if languages:
        said.append(f"signs in languages other than {joined(list(languages))}")
    return f"False here: {joined(said)}." if said else "False here: other places and other times."
