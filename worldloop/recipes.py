"""Recipes: everything that decides the bytes of a procedural clip, in about two hundred bytes plus a scene."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from worldloop.errors import MalformedRecordError
from worldloop.scenes.scene import Scene
from worldloop.seeds import content_id

PROCEDURAL_VERSION = "3"


@dataclass(frozen=True)
class Shape:
    """The shape of a clip.

    Attributes:
        num_frames: Length in frames.
        width_px: Width.
        height_px: Height.
        rate_fps: Frames per second.
        num_samples: Samples a pixel for RGB; annotations come from the pixel centre.
    """

    num_frames: int = 121
    width_px: int = 256
    height_px: int = 144
    rate_fps: int = 24
    num_samples: int = 5

    def __post_init__(self) -> None:
        """Refuse what cannot be a clip.

        Raises:
            MalformedRecordError: If a number is not positive, or a side is odd.
        """
        for name in ("num_frames", "width_px", "height_px", "rate_fps", "num_samples"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise MalformedRecordError(
                    f"{name} of a clip", value, "a whole number of at least 1", "Choose another."
                )
        for name in ("width_px", "height_px"):
            if getattr(self, name) % 2:  # 4:2:0 video has a colour sample for two pixels
                raise MalformedRecordError(
                    f"{name} of a clip", getattr(self, name), "an even number", "Add or take one."
                )

    @property
    def duration_s(self) -> float:
        """Seconds of footage."""
        return self.num_frames / self.rate_fps


@dataclass(frozen=True)
class Recipe:
    """A scene, a generator with its version, and a shape: together they are one clip.

    Attributes:
        scene: What is shown.
        shape: How it is sampled.
        generator: Name of what makes the clip.
        version: Version of the generator; it changes whenever bytes would.
    """

    scene: Scene
    shape: Shape = Shape()
    generator: str = "procedural"
    version: str = PROCEDURAL_VERSION

    @property
    def recipe_id(self) -> str:
        """Hash of (scene id, generator, version, shape), 32 hex digits; the clip's id."""
        return content_id(
            {
                "scene_id": self.scene.scene_id,
                "generator": self.generator,
                "version": self.version,
                "shape": asdict(self.shape),
            }
        )

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        return {
            "generator": self.generator,
            "version": self.version,
            "shape": asdict(self.shape),
            "scene": self.scene.to_record(),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is missing, unknown or of the wrong kind.
        """
        try:
            scene, shape = record["scene"], Shape(**record["shape"])
            generator, version = record["generator"], record["version"]
        except (KeyError, TypeError) as error:
            raise MalformedRecordError(
                "recipe", str(error), "generator, version, shape and scene", "Plan the wave again."
            ) from error
        return cls(Scene.from_record(scene), shape, generator, version)
