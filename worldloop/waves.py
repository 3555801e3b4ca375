"""Wave plans: an ordered list of clips to make, over any subset of places, with the atlas pinned."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from worldloop.atlas.atlas import Atlas
from worldloop.cosmos.plans import WorldModelPlan, check_sketch
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.recipes import Shape
from worldloop.scenes.casting import CASTABLE, cast_scene
from worldloop.scenes.scene import Scene
from worldloop.seeds import derive_seed, stream

PLAN_VERSION = 2
GENERATORS = ("procedural",)
MAX_CLIPS_PER_PLACE = 1000
WAVE_KEY = re.compile(r"w\d{4,}")
_LIMITS = {  # fewest and most of what a shape may say
    "num_frames": (5, 10_000),
    "width_px": (16, 4096),
    "height_px": (16, 4096),
    "rate_fps": (1, 240),
}
SAMPLE_COUNTS = (1, 5)  # the pixel centre, or it and four around it


@dataclass(frozen=True)
class PlannedClip:
    """One clip of a wave: its index in the wave, its place and the seed of its scene."""

    index: int
    city: str
    institution: str
    seed: int

    @property
    def place(self) -> str:
        """City and institution, `tokyo/zoo`."""
        return f"{self.city}/{self.institution}"


@dataclass(frozen=True)
class WavePlan:
    """What a wave makes; written once and never changed.

    Attributes:
        wave: Partition key, `w0001`.
        atlas_hash: `Atlas.hash` of the atlas that the scenes are cast from.
        seed: Seed of the wave, from which those of its clips follow.
        generator: Name of what makes the clips.
        shape: Shape of every clip.
        clips: In the order in which duplicates are decided.
        world_model: What a world model makes of the same scenes; None: nothing.
    """

    wave: str
    atlas_hash: str
    seed: int
    generator: str
    shape: Shape
    clips: tuple[PlannedClip, ...]
    world_model: WorldModelPlan | None = None
    plan_version: int = PLAN_VERSION

    @property
    def cities(self) -> tuple[str, ...]:
        """Cities of the wave, in the order of their first clip."""
        return tuple(dict.fromkeys(clip.city for clip in self.clips))

    def clips_of(self, city: str) -> tuple[PlannedClip, ...]:
        """The clips of one city, in the order of the plan."""
        return tuple(clip for clip in self.clips if clip.city == city)

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        return {
            **asdict(self),
            "clips": [asdict(clip) for clip in self.clips],
            "world_model": self.world_model.to_record() if self.world_model else None,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Read a record of any released version, in today's fields; version 1 knew no world models.

        Raises:
            MalformedRecordError: If the version is not one we read, or a field is missing or odd.
        """
        version = record.get("plan_version")
        if not isinstance(version, int) or not 1 <= version <= PLAN_VERSION:
            raise MalformedRecordError(
                "wave plan",
                version,
                f"plan_version 1 to {PLAN_VERSION}",
                "Read it with the release of worldloop that wrote it.",
            )
        try:
            clips = tuple(PlannedClip(**clip) for clip in record["clips"])
            model = record["world_model"] if version > 1 else None
            return cls(
                **{
                    **record,
                    "plan_version": PLAN_VERSION,
                    "shape": Shape(**record["shape"]),
                    "clips": clips,
                    "world_model": WorldModelPlan.from_record(model) if model else None,
                }
            )
        except (KeyError, TypeError) as error:
            raise MalformedRecordError(
                "wave plan", str(error), "the fields of docs/formats.md#wave-plan", "Plan it again."
            ) from error


def plan_wave(
    atlas: Atlas,
    *,
    wave: str,
    places: Sequence[str],
    clips_per_place: int,
    seed: int,
    shape: Shape,
    generator: str = "procedural",
    world_model: WorldModelPlan | None = None,
) -> WavePlan:
    """Plan a wave: every place in turn, as often as it gets clips.

    Args:
        atlas: Must know every place; its hash is pinned.
        wave: Partition key, `w0001`.
        places: `<city>/<institution>`, each once, in the order of the plan.
        clips_per_place: At least one.
        seed: Seed of the wave.
        shape: Shape of every clip.
        generator: One of `GENERATORS`.
        world_model: What a world model makes of the same scenes; None: nothing.

    Raises:
        UnknownKeyError: If a city, an institution or the generator is unknown, or no grammar
            builds the institution.
        MalformedRecordError: If the wave key, the places, their number or the shape cannot be, or
            sketches of this shape cannot control the world model.
    """
    _check_wave_key(wave)
    _check_places(atlas, places)
    _check_shape(shape)
    if world_model is not None:
        check_sketch(world_model, shape)
    if generator not in GENERATORS:
        raise UnknownKeyError("generator", generator, GENERATORS)
    if not 1 <= clips_per_place <= MAX_CLIPS_PER_PLACE:
        raise MalformedRecordError(
            "clips_per_place",
            clips_per_place,
            f"1 to {MAX_CLIPS_PER_PLACE}",
            "Spread more clips over more places or waves.",
        )
    rounds = [place.split("/") for _ in range(clips_per_place) for place in places]
    clips = tuple(
        PlannedClip(
            index,
            city,
            institution,
            derive_seed("clip", seed, city, institution, index // len(places)),
        )
        for index, (city, institution) in enumerate(rounds)
    )
    return WavePlan(wave, atlas.hash, seed, generator, shape, clips, world_model)


def plan_scenes(
    atlas: Atlas,
    *,
    wave: str,
    scenes: Sequence[str],
    seed: int,
    shape: Shape,
    world_model: WorldModelPlan | None = None,
) -> WavePlan:
    """Plan a wave of given scenes, as a promotion does that renders them again.

    Args:
        atlas: Must know every place; its hash is pinned.
        wave: Partition key, `w0001`.
        scenes: `<city>/<institution>@<seed of the scene>`, each once, in the order of the plan.
        seed: Seed of the wave; no scene depends on it.
        shape: Shape of every sketch.
        world_model: What a world model makes of the scenes.

    Raises:
        UnknownKeyError: If a city or an institution is unknown, or no grammar builds it.
        MalformedRecordError: If a scene cannot be read or comes twice, there are more or fewer
            drafts than scenes, or the shape cannot be.
    """
    _check_wave_key(wave)
    _check_shape(shape)
    parsed = [parse_scene(scene) for scene in scenes]
    _check_places(atlas, list(dict.fromkeys(place for place, _ in parsed)))
    if len(set(parsed)) < len(parsed):
        raise MalformedRecordError(
            "scenes of a wave", list(scenes), "each scene once", "Leave the repeated ones out."
        )
    if world_model is not None:
        check_sketch(world_model, shape)
        if world_model.drafts and len(world_model.drafts) != len(parsed):
            raise MalformedRecordError(
                "drafts of a wave",
                f"{len(world_model.drafts)} drafts",
                f"{len(parsed)}, one a scene",
                "Name the draft of every scene, in their order.",
            )
    clips = tuple(
        PlannedClip(index, place.split("/")[0], place.split("/")[1], scene_seed)
        for index, (place, scene_seed) in enumerate(parsed)
    )
    return WavePlan(wave, atlas.hash, seed, "procedural", shape, clips, world_model)


def parse_scene(text: str) -> tuple[str, int]:
    """Place and seed of a scene.

    Raises:
        MalformedRecordError: If the text is no scene.

    Example:
        >>> parse_scene("tokyo/zoo@17")
        ('tokyo/zoo', 17)
    """
    place, _, number = text.partition("@")
    if place.count("/") != 1 or not number.isdigit():
        raise MalformedRecordError(
            "scene of a wave", text, "<city>/<institution>@<seed>", "Write it like 'tokyo/zoo@17'."
        )
    return place, int(number)


def choose_places(atlas: Atlas, *, num_cities: int, history: Iterable[str], seed: int) -> list[str]:
    """The places that footage lacks most: least covered cities first, each with its rarest institution.

    Cities that are equally covered are spread over the continents; what is still equal is decided
    by the seed.

    Args:
        atlas: Where the cities come from.
        num_cities: How many places to choose, one per city.
        history: Places that have been planned, once per clip.
        seed: Decides ties.

    Returns:
        `<city>/<institution>`, as many as asked for.

    Raises:
        MalformedRecordError: If there are not so many cities.
    """
    if not 1 <= num_cities <= len(atlas.cities):
        raise MalformedRecordError(
            "num_cities", num_cities, f"1 to {len(atlas.cities)}", "Ask for fewer, or none of zero."
        )
    covered = Counter(history)
    by_city = _total(covered, 0)
    by_kind = _total(covered, 1)
    order = stream(seed, "choose places").permutation(len(atlas.cities))
    left = [list(atlas.cities)[int(index)] for index in order]
    kinds = [CASTABLE[int(k)] for k in stream(seed, "choose kinds").permutation(len(CASTABLE))]
    continents = Counter[str]()
    chosen = []
    for _ in range(num_cities):
        city = min(left, key=lambda c: (by_city[c], continents[atlas.cities[c].continent]))
        ranks = {kind: (covered[f"{city}/{kind}"], by_kind[kind]) for kind in kinds}
        kind = min(ranks, key=ranks.__getitem__)
        left.remove(city)
        continents[atlas.cities[city].continent] += 1
        by_kind[kind] += 1
        chosen.append(f"{city}/{kind}")
    return chosen


def _total(covered: Counter[str], part: int) -> Counter[str]:
    """Clips by city (part 0) or by institution (part 1)."""
    total = Counter[str]()
    for place, count in covered.items():
        total[place.split("/")[part]] += count
    return total


def next_wave_key(existing: Collection[str]) -> str:
    """The key after the highest one, however many gaps there are.

    Example:
        >>> next_wave_key([]), next_wave_key(["w0001", "w0007"])
        ('w0001', 'w0008')
    """
    for key in existing:
        _check_wave_key(key)
    return f"w{max((int(key[1:]) for key in existing), default=0) + 1:04d}"


def scenes_of(plan: WavePlan, atlas: Atlas, city: str) -> list[tuple[int, Scene]]:
    """Index and scene of each clip that a plan has for a city.

    Raises:
        UnknownKeyError: If the plan has no clips of the city.
        MalformedRecordError: If the atlas is not the one that the plan pins.
    """
    if city not in plan.cities:
        raise UnknownKeyError(f"city in wave {plan.wave}", city, plan.cities)
    if atlas.hash != plan.atlas_hash:
        raise MalformedRecordError(
            f"atlas of wave {plan.wave}",
            atlas.hash,
            f"the pinned atlas {plan.atlas_hash}",
            "Run the wave with the version of worldloop that planned it, or plan a new wave.",
        )
    return [
        (clip.index, cast_scene(atlas, place=clip.place, seed=clip.seed))
        for clip in plan.clips_of(city)
    ]


def _check_wave_key(wave: str) -> None:
    """Wave keys are `w` and at least four digits, so that they sort."""
    if not WAVE_KEY.fullmatch(wave):
        raise MalformedRecordError(
            "wave key", wave, "'w' and four digits", "Write it like 'w0001'."
        )


def _check_places(atlas: Atlas, places: Sequence[str]) -> None:
    """Every place exists, can be built, and is planned once."""
    if not places:
        raise MalformedRecordError(
            "places of a wave", [], "at least one place", "Name one, like 'tokyo/zoo'."
        )
    for place in places:
        _, institution = atlas.parse_place(place)
        if institution.key not in CASTABLE:
            raise UnknownKeyError("institution with a world grammar", institution.key, CASTABLE)
    repeated = [place for place, count in Counter(places).items() if count > 1]
    if repeated:
        raise MalformedRecordError(
            "places of a wave", repeated, "each place once", "Raise clips_per_place instead."
        )


def _check_shape(shape: Shape) -> None:
    """Numbers that a renderer can work with."""
    for name, (least, most) in _LIMITS.items():
        value = getattr(shape, name)
        if not least <= value <= most:
            raise MalformedRecordError(
                f"{name} of a wave", value, f"{least} to {most}", f"Choose another {name}."
            )
    if shape.num_samples not in SAMPLE_COUNTS:
        raise MalformedRecordError(
            "num_samples of a wave",
            shape.num_samples,
            f"one of {SAMPLE_COUNTS}",
            "Choose one of them.",
        )
