"""From a recipe to a world: one grammar per institution, imported when it is asked for."""

import importlib
from collections.abc import Callable
from functools import partial

from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.recipes import Recipe
from worldloop.scenes.scene import SKETCH_CAMERAS, Scene
from worldloop.worlds.world import World


def _build(module: str, recipe: Recipe) -> World:
    """Run `build` of the module that holds the grammar."""
    world: World = importlib.import_module(f"worldloop.worlds.{module}").build(recipe)
    return world


GRAMMARS: dict[str, Callable[[Recipe], World]] = {
    name: partial(_build, name)
    for name in ("street", "hospital", "zoo", "museum", "amusement_park")
}


def is_sketchable(scene: Scene) -> bool:
    """Whether the procedural renderer can show a scene: a grammar builds its place and plays its camera path."""
    return scene.institution in GRAMMARS and scene.camera in SKETCH_CAMERAS


def not_sketchable(place: str) -> MalformedRecordError:
    """The error for a place that is asked for as a sketch and that no grammar builds.

    Args:
        place: As it was asked for, e.g. `tokyo/library`.
    """
    return MalformedRecordError(
        "place",
        place,
        f"an institution that the sketch renderer draws: {', '.join(sorted(GRAMMARS))}",
        "Choose one of these; others need a world model that takes no control from sketches "
        "(`worldloop run --world-model <name>` without --control; `worldloop models list` has the names).",
    )


def build_world(recipe: Recipe) -> World:
    """The world of a recipe; the same recipe gives the same arrays in any process.

    Raises:
        UnknownKeyError: If no grammar builds the scene's institution.
        ClipRejectedError: If the scene asks for more than fits, or the camera has nowhere to go.
    """
    institution = recipe.scene.institution
    if institution not in GRAMMARS:
        raise UnknownKeyError("world grammar", institution, GRAMMARS)
    return GRAMMARS[institution](recipe)
