"""What prose says of the road: the side that traffic keeps to, and all of a scene from a car."""

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import RoadType
from worldloop.prompts.dice import Dice
from worldloop.prompts.words import an
from worldloop.scenes.scene import Drive, Scene

KM_A_MILE = 1.609344
DENSITY_WORDS: dict[str, tuple[str, ...]] = {
    "free": ("free-flowing", "free of traffic", "hardly any traffic", "nearly free road"),
    "light": ("light traffic", "thin traffic", "little traffic"),
    "dense": ("dense traffic", "heavy traffic", "thick traffic"),
    "queueing": ("queueing traffic", "a queue", "standing traffic", "queue"),
}
FULLNESS = {"free": "nearly free", "light": "quiet", "dense": "busy", "queueing": "congested"}
"""Adjectives of a road, before its name."""
_IN: dict[str, tuple[str, ...]] = {
    "free": ("in free-flowing traffic", "with hardly any traffic", "on a nearly free road"),
    "light": ("in light traffic", "in thin traffic", "with little traffic about"),
    "dense": ("in dense traffic", "through heavy traffic", "amid thick traffic"),
    "queueing": ("in queueing traffic", "in a queue of vehicles", "in nearly standing traffic"),
}
_GOES = ("drives", "rolls", "travels", "moves", "proceeds", "runs")
_CAR = ("the car", "our car", "the vehicle", "our vehicle")


def speed_text(atlas: Atlas, scene: Scene, drive: Drive) -> str:
    """The own speed in the unit of the country: `45 km/h`, `28 mph`."""
    unit = atlas.country(scene.city).speed_unit
    return f"{drive.speed_kmh if unit == 'km/h' else round(drive.speed_kmh / KM_A_MILE)} {unit}"


def open_road(scene: Scene, atlas: Atlas) -> RoadType | None:
    """The road of a scene from a car, if nobody walks beside it."""
    road = atlas.roads[scene.drive.road] if scene.drive else None
    return road if road and not road.pavements else None


def traffic_clause(said: str, scene: Scene, dice: Dice, *, many: bool) -> str:
    """Vehicles on their side of the road, a finite clause."""
    side, keep = scene.driving_side, "keep" if many else "keeps"
    roll = dice.pick(
        ("roll", "drive", "move", "travel") if many else ("rolls", "drives", "moves", "travels")
    )
    return dice.pick(
        (
            f"{said} {keep} to the {side} of the road",
            f"{said} {roll} on the {side}",
            f"keeping to the {side}, {said} {roll} by",
            f"traffic keeps to the {side}: {said}",
            f"{said} {roll} in line, each on the {side}",
            f"{said} {roll} in the lane on the {side}",
        )
    )


def drive_clauses(scene: Scene, drive: Drive, atlas: Atlas, dice: Dice) -> tuple[str, str]:
    """Two finite clauses: how the car goes along which road, and what it does and passes."""
    road, speed = an(atlas.roads[drive.road].name), speed_text(atlas, scene, drive)
    car, goes, dense = dice.pick(_CAR), dice.pick(_GOES), dice.pick(_IN[drive.density])
    side = scene.driving_side
    first = dice.pick(
        (
            f"{car} {goes} at {speed} along {road} {dense}, keeping to the {side}",
            f"{dense}, {car} {goes} on the {side} of {road} at {speed}",
            f"{car} keeps to the {side} of {road}, at {speed} {dense}",
            f"at {speed} {car} follows {road} {dense}, on the {side}",
            f"{car} {goes} on the {side} of {road} {dense}, at {speed}",
        )
    )
    act = drive.manoeuvre
    second = dice.pick(
        (
            f"its next move is {act}",
            f"before long it is {act}",
            f"soon the driver is {act}",
            f"a moment later the car is {act}",
            f"the shot shows it {act}",
        )
    )
    thing = an(drive.structure) if drive.structure else ""
    if thing and drive.markings:
        second += f", with {thing} ahead and {drive.markings} {dice.pick(('underneath', 'on the surface'))}"
    elif thing:
        second += dice.pick(
            (f", with {thing} ahead", f" near {thing}", f" as {thing} comes nearer")
        )
    elif drive.markings:
        second += dice.pick((f", with {drive.markings} underneath", f", past {drive.markings}"))
    return first, second
