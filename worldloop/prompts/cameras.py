"""A few words about the camera, which models follow badly: adverbials by camera path."""

from worldloop.prompts.dice import Dice
from worldloop.scenes.scene import Scene

_SEEN = ("seen", "viewed", "filmed", "shown", "observed", "recorded")
_PATHS: dict[str, tuple[str, ...]] = {
    "stroll": (
        "on a slow walk ahead",
        "on a walk forward at eye level",
        "on a steady walk forward",
        "at the pace of a walk ahead",
        "in a slow forward walk",
    ),
    "tour": (
        "on a slow walk with looks to both sides",
        "on a walk that keeps looking around",
        "at eye level, turning gently to both sides",
        "from a walk that pauses to look around",
    ),
    "wander": (
        "on a free wander at eye level",
        "as by a wandering player",
        "from a wandering walk",
        "on a free roam at eye level",
    ),
    "still": (
        "from a fixed point",
        "from one still position",
        "by a camera that stands still",
        "from a motionless tripod",
        "from a fixed eye-level spot",
    ),
    "drive": (
        "through the windscreen",
        "from the driver's seat",
        "from behind the wheel",
        "over the dashboard",
        "from inside a moving car",
    ),
    "drone": (
        "from a low-flying drone",
        "in a low drone flight",
        "by a drone gliding above head height",
        "from a slow drone pass",
    ),
    "birds_eye": (
        "from high above",
        "from a bird's-eye view",
        "straight down from great height",
        "from high overhead",
    ),
}
CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "stroll": ("walk ahead", "forward", "walks ahead", "moves ahead"),
    "tour": ("both sides", "looking around", "look around", "looks around"),
    "wander": ("wandering", "free wander", "camera wanders", "roam"),
    "still": ("fixed", "still position", "stands still", "motionless", "static", "does not move"),
    "drive": (
        "windscreen",
        "windshield",
        "driver's seat",
        "behind the wheel",
        "dashboard",
        "moving car",
    ),
    "drone": ("drone", "aerial"),
    "birds_eye": ("high above", "bird's-eye", "straight down", "high overhead", "aerial"),
}
"""Parts of a prompt that say each camera path."""


def camera_phrase(scene: Scene, dice: Dice) -> str:
    """How the scene is seen, an adverbial: `seen from a low-flying drone`."""
    return f"{dice.pick(_SEEN)} {dice.pick(_PATHS[scene.camera])}"


def camera_clause(scene: Scene, dice: Dice) -> str:
    """How the scene is seen, a finite clause."""
    subject = dice.pick(
        (
            "it is all",
            "all this is",
            "everything is",
            "the scene is",
            "the moment is",
            "the action is",
        )
    )
    return f"{subject} {camera_phrase(scene, dice)}"
