"""A scene: one place at one time with who and what is in it, as a JSON record whose hash is its id.

A scene holds every fact that a caption may state and a world must honour; geometry that nobody
would put into words follows from `seed`. How scenes are drawn from the atlas is in `casting.py`.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from worldloop.atlas.records import DayKind, Side, Sign
from worldloop.errors import MalformedRecordError
from worldloop.seeds import content_id

SCENE_VERSION = 2
Weather = Literal["clear", "cloudy", "rain", "fog", "snow"]
Crowd = Literal["empty", "sparse", "lively", "crowded"]
Daypart = Literal["night", "dawn", "morning", "afternoon", "dusk"]
Camera = Literal["stroll", "tour", "wander", "still", "drive", "drone", "birds_eye"]
SKETCH_CAMERAS: tuple[Camera, ...] = ("stroll", "tour", "wander")
"""Camera paths that the procedural renderer plays; the others are for world models."""
_SINCE_2 = frozenset(
    {"day", "holiday", "daypart", "category", "activity", "script", "details", "drive"}
)


@dataclass(frozen=True)
class Dress:
    """What somebody wears, as the rasterizer draws it and the caption says it.

    Attributes:
        top: One of `shirt`, `coat`, `scrubs`, `uniform`, `jacket`, `robe`, `hi-vis vest`.
        bottom: One of `trousers`, `skirt`, `shorts`, `robe`.
        head: One of `none`, `cap`, `headscarf`, `straw hat`, `hard hat`, `nurse cap`.
        color: Name of the top's main colour, a key of `palette.COLORS`; empty for a random one.
    """

    top: str = "shirt"
    bottom: str = "trousers"
    head: str = "none"
    color: str = ""


@dataclass(frozen=True)
class Role:
    """Some people who do the same thing: `visitor`, `nurse`, `patient`, `keeper`, `guard`, ..."""

    name: str
    count: int
    dress: Dress
    action: str = "walking"  # walking, standing, sitting, lying, queueing


@dataclass(frozen=True)
class Subject:
    """What a place shows: an animal kind, a ride, an exhibit, a vehicle kind.

    Attributes:
        kind: e.g. `elephant`, `giraffe`, `zebra`, `lion`, `ferris_wheel`, `painting`, `car`, `bus`.
        count: How many are in the scene (not all need be in view).
        trait: One adjective phrase that is true of them in the frame, or empty.
    """

    kind: str
    count: int
    trait: str = ""


@dataclass(frozen=True)
class Detail:
    """Something of the decorum that a prompt states: `furniture`, `a long zinc counter`."""

    slot: str
    says: str


@dataclass(frozen=True)
class Drive:
    """What a scene from a car adds.

    Attributes:
        road: Key of the road type.
        density: `free`, `light`, `dense` or `queueing`.
        speed_kmh: Own speed at the start.
        manoeuvre: What the own car does, e.g. `turning left`.
        structure: `tunnel`, `bridge`, `tollbooth`, ..., or empty.
        markings: Noun phrase of the lines on the road.
    """

    road: str
    density: str
    speed_kmh: int
    manoeuvre: str
    structure: str
    markings: str


@dataclass(frozen=True)
class Scene:
    """One moment at one place. All angles in degrees, lengths in metres.

    Attributes:
        city: Key of the city in the atlas, e.g. `tokyo`.
        institution: Key of the institution, e.g. `zoo`; `street` is one.
        seed: 63-bit seed of everything that the record does not say.
        date: ISO date at the place.
        hour: Local clock time, [0, 24).
        sun_elevation_deg: Height of the sun over the horizon at that moment, negative at night.
        sun_azimuth_deg: Compass direction of the sun, clockwise from north.
        season: `spring`, `summer`, `autumn`, `winter`, `wet season` or `dry season`.
        weather: What falls from the sky or hangs in the air.
        climate: Koeppen class of the city.
        driving_side: The side of the road that traffic keeps to.
        crowd: How full the place is.
        roles: Who is there.
        subjects: What is there.
        signs: What is written there, the institution's own sign first.
        style: Free traits that the grammar of the place understands, e.g. `facade: brick`.
        camera: `stroll` walks ahead, `tour` looks around while walking, `wander` plays freely, `still` stands,
            `drive` sits in a car, `drone` flies low, `birds_eye` looks down from high above.
        day: Whether people there work on that date.
        holiday: English name of the public holiday on that date, or empty.
        daypart: Part of the day by the sun.
        category: Content category, e.g. `human_activity`.
        activity: Key of what mainly goes on.
        script: What happens, three finite clauses in order; empty in scenes of version 1.
        details: Decorum and plants that a prompt may state; the renderer need not show them.
        drive: The road, for scenes from a car.
    """

    city: str
    institution: str
    seed: int
    date: str
    hour: float
    sun_elevation_deg: float
    sun_azimuth_deg: float
    season: str
    weather: Weather
    climate: str
    driving_side: Side
    crowd: Crowd
    roles: tuple[Role, ...]
    subjects: tuple[Subject, ...]
    signs: tuple[Sign, ...]
    style: dict[str, str]
    camera: Camera = "stroll"
    day: DayKind = "workday"
    holiday: str = ""
    daypart: Daypart = "morning"
    category: str = ""
    activity: str = ""
    script: tuple[str, ...] = ()
    details: tuple[Detail, ...] = ()
    drive: Drive | None = None
    scene_version: int = SCENE_VERSION

    @property
    def place(self) -> str:
        """City and institution, `tokyo/zoo`."""
        return f"{self.city}/{self.institution}"

    @property
    def scene_id(self) -> str:
        """Hash of the record, 32 hex digits."""
        return content_id(self.to_record())

    @property
    def is_night(self) -> bool:
        """Whether lamps are on: the sun is below civil twilight's upper edge."""
        return self.sun_elevation_deg < -2.0

    def to_record(self) -> dict[str, Any]:
        """The JSON record; one of version 1 has the fields of version 1, so its id stands."""
        # Written out, since this is several times as fast as `dataclasses.asdict`.
        record: dict[str, Any] = self.__dict__.copy()
        record["roles"] = tuple([_role_record(role) for role in self.roles])
        record["subjects"] = tuple(
            [{"kind": s.kind, "count": s.count, "trait": s.trait} for s in self.subjects]
        )
        record["signs"] = tuple(
            [{"word": s.word, "text": s.text, "language": s.language} for s in self.signs]
        )
        record["style"] = self.style.copy()
        record["details"] = tuple([{"slot": d.slot, "says": d.says} for d in self.details])
        if self.drive:
            record["drive"] = asdict(self.drive)
        if self.scene_version > 1:
            return record
        return {name: value for name, value in record.items() if name not in _SINCE_2}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Read a record of any released version; one of version 1 keeps its id, since its version stays.

        Raises:
            MalformedRecordError: If the version is not one we read, or a field is missing or odd.
        """
        version = record.get("scene_version")
        if version not in (1, SCENE_VERSION):
            raise MalformedRecordError(
                "scene", version, f"scene_version 1 to {SCENE_VERSION}", "Run `worldloop migrate`."
            )
        try:
            drive = record.get("drive")
            return cls(
                **{
                    **record,
                    "roles": tuple(
                        Role(**{**role, "dress": Dress(**role["dress"])})
                        for role in record["roles"]
                    ),
                    "subjects": tuple(Subject(**subject) for subject in record["subjects"]),
                    "signs": tuple(Sign(**sign) for sign in record["signs"]),
                    "script": tuple(record.get("script", ())),
                    "details": tuple(Detail(**detail) for detail in record.get("details", ())),
                    "drive": Drive(**drive) if drive else None,
                }
            )
        except (KeyError, TypeError) as error:
            raise MalformedRecordError(
                "scene", str(error), "the fields of docs/formats.md#scene", "Draw the scene again."
            ) from error


def _role_record(role: Role) -> dict[str, Any]:
    dress = role.dress
    return {
        "name": role.name,
        "count": role.count,
        "dress": {
            "top": dress.top,
            "bottom": dress.bottom,
            "head": dress.head,
            "color": dress.color,
        },
        "action": role.action,
    }
