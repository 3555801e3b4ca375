"""Wave plans: an ordered list of clips to make, over any subset of places, with the atlas pinned."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from worldloop.atlas.atlas import Atlas
from worldloop.cosmos.plans import WorldModelPlan, check_sketch
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.recipes import Shape
from worldloop.scenes.casting import CASTABLE, SEED_BITS, cast_scenes
from worldloop.scenes.coverage import CoveragePlanner, PlannedScene, accept_weights
from worldloop.scenes.dimensions import Asked, check_asked
from worldloop.scenes.scene import Scene
from worldloop.seeds import derive_seed
from worldloop.worlds.grammar import not_sketchable

PLAN_VERSION = 3
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
    """One clip of a wave.

    Attributes:
        index: In the wave.
        city: Key of the city.
        institution: Key of the institution.
        seed: Seed of its scene.
        asked: Values of the scene's dimensions that are decided, by dimension; the seed decides the others.
    """

    index: int
    city: str
    institution: str
    seed: int
    asked: Mapping[str, str] = field(default_factory=dict)

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
        accept_counts: Clips accepted and made, by place, of those that had lost some when they were picked
            by them (`coverage.accept_weights`); empty: no place was weighed by acceptance.
    """

    wave: str
    atlas_hash: str
    seed: int
    generator: str
    shape: Shape
    clips: tuple[PlannedClip, ...]
    world_model: WorldModelPlan | None = None
    plan_version: int = PLAN_VERSION
    accept_counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def cities(self) -> tuple[str, ...]:
        """Cities of the wave, in the order of their first clip."""
        return tuple(dict.fromkeys(clip.city for clip in self.clips))

    def clips_of(self, city: str) -> tuple[PlannedClip, ...]:
        """The clips of one city, in the order of the plan."""
        return tuple(clip for clip in self.clips if clip.city == city)

    def to_record(self) -> dict[str, Any]:
        """The JSON record; `accept_counts` stands in it only if there are any."""
        record = {
            **asdict(self),
            "clips": [asdict(clip) for clip in self.clips],
            "world_model": self.world_model.to_record() if self.world_model else None,
        }
        counts = record.pop("accept_counts")
        lists = {place: list(pair) for place, pair in counts.items()}
        return {**record, "accept_counts": lists} if lists else record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Read a record of any released version, in today's fields; version 1 knew no world models, version 2 no `asked`.

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
                    "accept_counts": _read_counts(record.get("accept_counts", {})),
                }
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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
    asked: Asked | None = None,
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
        asked: Values of dimensions that every scene has, e.g. `{"season": "winter"}`.

    Raises:
        UnknownKeyError: If a city, an institution, the generator, a dimension or its value is unknown.
        MalformedRecordError: If the wave key, the places, their number or the shape cannot be, the wave
            needs sketches and no grammar builds a place, what is asked for is impossible there, or sketches
            of this shape cannot control the world model.
    """
    _check_wave(wave, shape, world_model)
    _check_places(atlas, places, sketch=needs_sketches(world_model))
    if generator not in GENERATORS:
        raise UnknownKeyError("generator", generator, GENERATORS)
    _check_clips_per_place(clips_per_place)
    for place in places:
        check_asked(atlas, place, asked or {}, sketch=needs_sketches(world_model))
    rounds = [_canonical(atlas, place) for _ in range(clips_per_place) for place in places]
    clips = tuple(
        PlannedClip(
            index,
            city,
            institution,
            derive_seed("clip", seed, city, institution, index // len(places)),
            dict(asked or {}),
        )
        for index, (city, institution) in enumerate(rounds)
    )
    return WavePlan(wave, atlas.hash, seed, generator, shape, clips, world_model)


def plan_covering_wave(
    atlas: Atlas,
    *,
    wave: str,
    num_cities: int,
    clips_per_place: int,
    seed: int,
    shape: Shape,
    history: Iterable[PlannedClip] = (),
    targets: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
    mix: Mapping[str, float] | None = None,
    accept_counts: Mapping[str, tuple[int, int]] | None = None,
    asked: Asked | None = None,
    world_model: WorldModelPlan | None = None,
) -> WavePlan:
    """Plan a wave of the scenes that footage lacks most.

    Places are chosen by how far they are behind, one a city, and come in turn; the values of their
    scenes are those that cover most pairs of values which no wave has covered yet.

    Args:
        atlas: Its hash is pinned.
        wave: Partition key, `w0001`.
        num_cities: How many places, one a city.
        clips_per_place: Clips of each place.
        seed: Seed of the wave; it decides ties too.
        shape: Shape of every sketch.
        history: Clips of earlier waves.
        targets: Clips of given places, by `<city>/<institution>`; they take the place of `num_cities` and
            `clips_per_place`.
        weights: How often places should come, as `CoveragePlanner` takes them.
        mix: Shares of content categories, as `CoveragePlanner` takes them.
        accept_counts: Clips accepted and made of places; what `accept_weights` makes of them multiplies the
            weights. The plan keeps them, so the same plan follows from what it says.
        asked: Values of dimensions that every scene has.
        world_model: What a world model makes of the same scenes. Without one, or if it follows
            sketches, only what can be sketched is planned.

    Raises:
        UnknownKeyError: If a place, a category, a dimension or a value is unknown.
        MalformedRecordError: If numbers, weights, shares or values cannot be, alone or together.
    """
    _check_wave(wave, shape, world_model)
    sketch = needs_sketches(world_model)
    planner = CoveragePlanner(
        atlas,
        history=[PlannedScene(clip.city, clip.institution, dict(clip.asked)) for clip in history],
        weights=_weighed(weights or {}, accept_counts or {}),
        mix=mix,
        sketch=sketch,
        seed=seed,
    )
    if targets:
        rounds = _target_places(atlas, targets, sketch=sketch)
    else:
        _check_clips_per_place(clips_per_place)
        places = _covering_places(atlas, planner, num_cities, asked=asked)
        rounds = places * clips_per_place
    done = Counter[tuple[str, str]]()
    clips = []
    for index, place in enumerate(rounds):
        scene = planner.plan_in_mix(*place, asked or {})
        clip_seed = derive_seed("clip", seed, *place, done[place])
        clips.append(PlannedClip(index, *place, clip_seed, scene.asked))
        done[place] += 1
    return WavePlan(
        wave,
        atlas.hash,
        seed,
        "procedural",
        shape,
        tuple(clips),
        world_model,
        accept_counts=dict(accept_counts or {}),
    )


def check_wishes(
    atlas: Atlas,
    *,
    num_cities: int,
    targets: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
    mix: Mapping[str, float] | None = None,
    sketch: bool,
) -> None:
    """Refuse what no wave could be planned with, before there is one.

    Args:
        atlas: Which places and categories there are.
        num_cities: As `plan_covering_wave`, and so are `targets`, `weights` and `mix`.
        targets: Clips of given places.
        weights: How often places should come.
        mix: Shares of content categories.
        sketch: Whether the procedural renderer must be able to show the scenes.

    Raises:
        UnknownKeyError: If a place or a category is unknown.
        MalformedRecordError: If a place cannot be sketched, a number cannot be, or too few places are left.
    """
    planner = CoveragePlanner(atlas, weights=weights, mix=mix, sketch=sketch)
    if not targets:
        _covering_places(atlas, planner, num_cities)
        return
    for place in dict.fromkeys(_target_places(atlas, targets, sketch=sketch)):
        planner.plan_in_mix(*place, {})


def needs_sketches(world_model: WorldModelPlan | None) -> bool:
    """Whether a wave's clips follow sketches: without a world model, or if sketches control it."""
    if world_model is None:
        return True
    return bool(world_model.control) and world_model.source == "sketch"


def _read_counts(record: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """`accept_counts` of a plan's record; a ValueError if they are not two numbers a place."""
    counts = {place: (accepted, made) for place, (accepted, made) in record.items()}
    for place, (accepted, made) in counts.items():
        if not 0 <= accepted <= made:
            raise ValueError(f"accept_counts of {place!r} are {[accepted, made]}")
    return counts


def _weighed(
    weights: Mapping[str, float], accept_counts: Mapping[str, tuple[int, int]]
) -> dict[str, float]:
    """Weights given by hand, multiplied with those that make up for lost clips."""
    weighed = dict(weights)
    for place, weight in accept_weights(accept_counts).items():
        weighed[place] = weighed.get(place, 1.0) * weight
    return weighed


def _target_places(
    atlas: Atlas, targets: Mapping[str, int], *, sketch: bool
) -> list[tuple[str, str]]:
    """Places of the targets in turn, each as often as it gets clips."""
    _check_places(atlas, list(targets), sketch=sketch)
    for place, count in targets.items():
        _check_clips_per_place(count, name=f"target of {place!r}")
    return [
        _canonical(atlas, place)
        for number in range(max(targets.values()))
        for place, count in targets.items()
        if number < count
    ]


def _covering_places(
    atlas: Atlas, planner: CoveragePlanner, num_cities: int, *, asked: Asked | None = None
) -> list[tuple[str, str]]:
    """Places that footage lacks most and that can be as asked for, one a city."""
    if not 1 <= num_cities <= len(atlas.cities):
        raise MalformedRecordError(
            "num_cities", num_cities, f"1 to {len(atlas.cities)}", "Ask for fewer, or none of zero."
        )
    places: list[tuple[str, str]] = []
    for number in range(num_cities):
        category = planner.category_of_turn(number)
        places.append(planner.choose_place(chosen=places, category=category, asked=asked))
    return places


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
        scenes: `<city>/<institution>@<seed of the scene>`, each once, in the order of the plan; values that
            were asked for follow as `?camera=drone&season=winter`.
        seed: Seed of the wave; no scene depends on it.
        shape: Shape of every sketch.
        world_model: What a world model makes of the scenes.

    Raises:
        UnknownKeyError: If a city or an institution is unknown.
        MalformedRecordError: If a scene cannot be read, sketched where it must be, or comes twice, there are more or fewer
            drafts than scenes, or the shape cannot be.
    """
    _check_wave(wave, shape, world_model)
    sketch = needs_sketches(world_model)
    parsed = [parse_scene(scene) for scene in scenes]
    _check_places(atlas, list(dict.fromkeys(place for place, _, _ in parsed)), sketch=sketch)
    for place, _, asked in parsed:
        check_asked(atlas, place, asked, sketch=sketch)
    if len(set(scenes)) < len(scenes):
        raise MalformedRecordError(
            "scenes of a wave", list(scenes), "each scene once", "Leave the repeated ones out."
        )
    if world_model is not None and world_model.drafts and len(world_model.drafts) != len(parsed):
        raise MalformedRecordError(
            "drafts of a wave",
            f"{len(world_model.drafts)} drafts",
            f"{len(parsed)}, one a scene",
            "Name the draft of every scene, in their order.",
        )
    clips = tuple(
        PlannedClip(index, *_canonical(atlas, place), scene_seed, asked)
        for index, (place, scene_seed, asked) in enumerate(parsed)
    )
    return WavePlan(wave, atlas.hash, seed, "procedural", shape, clips, world_model)


def parse_scene(text: str) -> tuple[str, int, dict[str, str]]:
    """Place, seed and asked values of a scene.

    Raises:
        MalformedRecordError: If the text is no scene.

    Example:
        >>> parse_scene("tokyo/zoo@17"), parse_scene("lima/park@4?camera=drone")[2]
        (('tokyo/zoo', 17, {}), {'camera': 'drone'})
    """
    place, _, rest = text.partition("@")
    number, _, wishes = rest.partition("?")
    pairs = [wish.split("=") for wish in wishes.split("&")] if wishes else []
    are_pairs = all(len(pair) == 2 for pair in pairs)
    are_distinct = len({pair[0] for pair in pairs}) == len(pairs)
    if not (place.count("/") == 1 and _is_seed(number) and are_pairs and are_distinct):
        raise MalformedRecordError(
            "scene of a wave",
            text,
            "<city>/<institution>@<seed below 2**63>, each wish once",
            "Write it like 'tokyo/zoo@17' or 'tokyo/zoo@17?season=winter'.",
        )
    return place, int(number), {pair[0]: pair[1] for pair in pairs}


def _is_seed(text: str) -> bool:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(1 << SEED_BITS))
    return is_number and int(text) < 1 << SEED_BITS


def write_scene(clip: PlannedClip) -> str:
    """The text of a clip's scene that `parse_scene` reads.

    Example:
        >>> write_scene(PlannedClip(0, "lima", "park", 4, {"camera": "drone"}))
        'lima/park@4?camera=drone'
    """
    wishes = "&".join(f"{name}={value}" for name, value in clip.asked.items())
    return f"{clip.place}@{clip.seed}" + (f"?{wishes}" if wishes else "")


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
    clips = plan.clips_of(city)
    return list(zip((clip.index for clip in clips), scenes_of_clips(atlas, clips), strict=True))


def scenes_of_clips(atlas: Atlas, clips: Sequence[PlannedClip]) -> list[Scene]:
    """The scene of each planned clip, whatever wave it is in.

    Where a grammar builds the institution and nobody asked for a camera path, it is one that can be
    sketched: a scene follows from place, seed and what was asked for, and from nothing else.
    """
    scenes: dict[int, Scene] = {}
    for sketch in (True, False):
        rows = [row for row, clip in enumerate(clips) if _is_for_sketching(clip) == sketch]
        some = [clips[row] for row in rows]
        made = cast_scenes(
            atlas,
            [clip.place for clip in some],
            [clip.seed for clip in some],
            [clip.asked for clip in some],
            sketch=sketch,
        )
        scenes.update(zip(rows, made, strict=True))
    return [scenes[row] for row in range(len(clips))]


def _is_for_sketching(clip: PlannedClip) -> bool:
    return clip.institution in CASTABLE and "camera" not in clip.asked


def _canonical(atlas: Atlas, place: str) -> tuple[str, str]:
    """Keys of city and institution, whatever aliases were written."""
    city, kind = atlas.parse_place(place)
    return city.key, kind.key


def _check_wave(wave: str, shape: Shape, world_model: WorldModelPlan | None) -> None:
    """Key and shape of a wave, and that its sketches fit its world model."""
    _check_wave_key(wave)
    _check_shape(shape)
    if world_model is not None:
        check_sketch(world_model, shape)


def _check_clips_per_place(count: int, *, name: str = "clips_per_place") -> None:
    if not 1 <= count <= MAX_CLIPS_PER_PLACE:
        raise MalformedRecordError(
            name,
            count,
            f"1 to {MAX_CLIPS_PER_PLACE}",
            "Spread more clips over more places or waves.",
        )


def _check_wave_key(wave: str) -> None:
    """Wave keys are `w` and at least four digits, so that they sort."""
    if not WAVE_KEY.fullmatch(wave):
        raise MalformedRecordError(
            "wave key", wave, "'w' and four digits", "Write it like 'w0001'."
        )


def _check_places(atlas: Atlas, places: Sequence[str], *, sketch: bool) -> None:
    """Every place exists, can be built if the wave needs sketches, and is planned once."""
    if not places:
        raise MalformedRecordError(
            "places of a wave", [], "at least one place", "Name one, like 'tokyo/zoo'."
        )
    for place in places:
        _, institution = atlas.parse_place(place)
        if sketch and institution.key not in CASTABLE:
            raise not_sketchable(place)
    counts = Counter("/".join(_canonical(atlas, place)) for place in places)
    repeated = [place for place, count in counts.items() if count > 1]
    if repeated:
        raise MalformedRecordError(
            "places of a wave", repeated, "each place once", "Ask for more clips a place instead."
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
