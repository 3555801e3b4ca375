"""People as rigid parts: dress, posture and gait, all people of a world posed at once.

A person is twelve parts: torso with coat or skirt, head with hair or hat, two thighs, shins, feet,
upper arms and forearms. Body axes are x forward, y left, z up, with the origin between the hips.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloop.scenes.scene import Dress, Role
from worldloop.worlds import palette
from worldloop.worlds.geometry import Float, Material, SemanticClass, quad, sphere
from worldloop.worlds.palette import Color, pick, tinted
from worldloop.worlds.paths import Path, Paths
from worldloop.worlds.shapes import Primitive, boxes, dome, flipped, joined, loft, shifted, tube
from worldloop.worlds.stage import Stage

Float64 = NDArray[np.float64]

NUM_PARTS = 12
TORSO, HEAD, THIGH, SHIN, FOOT, UPPER_ARM, FOREARM = 0, 1, 2, 4, 6, 8, 10  # left; right is + 1
HIP_Y, THIGH_M, SHIN_M, ANKLE_M = 0.095, 0.44, 0.40, 0.08
TOE_M, HEEL_M = 0.17, 0.08
SHOULDER, NECK = (0.0, 0.196, 0.482), (0.0, 0.0, 0.575)
UPPER_ARM_M = 0.28
STRIDE_M = 1.45
SEAT_TO_HIP_M, MATTRESS_TO_HIP_M = 0.08, 0.11

_GARMENTS = {"scrubs": "{color} scrubs"}
_LONG_SLEEVES = ("coat", "uniform", "jacket", "robe", "hi-vis vest")
_CHILDREN = ("child", "pupil", "toddler", "kid")
_CUTS: dict[str, tuple[str, ...]] = {  # what a garment of the public may be, by its kind
    "shirt": ("plain", "loose", "striped", "yoke", "open", "print"),
    "jacket": ("zip", "open", "hood", "blazer"),
    "coat": ("long", "short", "belted", "hood"),
}
_BAGS = ("", "", "", "", "backpack", "backpack", "shoulder bag", "shoulder bag", "handbag")
_PUBLIC_HATS: dict[str, tuple[str, ...]] = {  # with what they are worn
    "shirt": ("", "", "", "", "", "", "", "cap", "cap", "straw hat", "bucket hat"),
    "jacket": ("", "", "", "", "", "", "", "cap", "beanie", "bucket hat"),
    "coat": ("", "", "", "", "beanie", "beanie", "cap"),
}
_IN_UNIFORM = {"hi-vis vest": ("lime", "orange"), "scrubs": ("teal", "sky blue", "navy", "mint")}


@dataclass(frozen=True)
class Look:
    """One person's appearance, fully decided."""

    dress: Dress
    scale: float
    skin: Color
    hair: Color
    hair_style: str  # short, long, bob, bun, tail, curly, bald
    top: Color
    bottom: Color
    shoes: Color
    long_sleeves: bool
    build: float = 1.0  # breadth of body and limbs for the height
    cut: str = ""  # one of _CUTS; uniforms and robes have none
    accent: Color = (0.5, 0.5, 0.5)  # of stripes, yoke, lining or what is worn under a jacket
    hat: str = ""  # of one's own choice; `dress.head` goes before
    hat_color: Color = (0.2, 0.2, 0.2)
    bag: str = ""  # backpack, shoulder bag, handbag
    bag_color: Color = (0.2, 0.2, 0.2)
    beard: bool = False
    umbrella: Color | None = None


@dataclass(frozen=True)
class _Pose:
    """Where somebody is and how the limbs are held; angles in radians, forward is positive."""

    at: tuple[float, float, float]
    heading_rad: float
    hip_m: float | None  # None: as high as the longer leg carries it
    thigh: float
    knee: float
    arm: tuple[float, float]
    elbow: tuple[float, float]
    lying: bool = False


class Troupe:
    """All people of a world; they are posed together.

    Attributes:
        stage: Where they are.
        indoors: Whether there is a roof over everybody: umbrellas stay closed in the rain.

    Example:
        >>> troupe = Troupe(stage)  # doctest: +SKIP
        >>> troupe.place(Role("guard", 1, Dress("uniform")), at=(2, 0, 0), heading_rad=0.0,
        ...     posture="standing", rng=stage.random("guard"))  # doctest: +SKIP
    """

    def __init__(self, stage: Stage, *, indoors: bool = False) -> None:
        self.stage, self.indoors = stage, indoors
        self._poses: list[_Pose] = []
        self._paths: list[Path | None] = []
        self._looks: list[Look] = []
        self._phases: list[float] = []
        self._parts: list[int] = []
        self._motion: Callable[[float], Float] | None = None
        stage.drive(self._parts, self._pose)

    def place(
        self,
        role: Role,
        *,
        at: ArrayLike,
        heading_rad: float,
        posture: str | None = None,
        rng: np.random.Generator,
        seat_m: float = 0.45,
        block: bool = True,
        phrase: str | None = None,
    ) -> int:
        """Put somebody who stays where they are.

        Args:
            role: Name and dress; its action is the posture unless one is given.
            at: On the floor below the feet or the seat; for `lying`, the middle of the mattress top.
            heading_rad: Where the face points; for `lying`, where the head points.
            posture: `standing`, `sitting`, `lying` or `queueing`.
            rng: Decides looks and small differences.
            seat_m: Height of the seat for `sitting`.
            block: Whether the plan keeps the player away; off for somebody on a blocked bed.
            phrase: Instead of the one that follows from role and dress.

        Returns:
            The instance id.
        """
        x, y, z = (float(c) for c in np.asarray(at, np.float64))
        posture = posture or role.action
        look = _look(role, self.stage, _wardrobe_of(rng), umbrellas=False, hats=not self.indoors)
        pose = _fixed_pose(posture, (x, y, z), heading_rad, seat_m, look, rng)
        if block:
            self.stage.plan.block_disc((x, y), 0.62, height_m=1.75)
        return self._add(look, pose, None, phrase or describe(role, look), rng)

    def walk(
        self, role: Role, path: Path, *, rng: np.random.Generator, phrase: str | None = None
    ) -> int:
        """Put somebody who walks along a path; returns the instance id."""
        look = _look(
            role, self.stage, _wardrobe_of(rng), umbrellas=not self.indoors, hats=not self.indoors
        )
        pose = _Pose((0, 0, path.height_m), 0.0, None, 0.0, 0.0, (0.0, 0.0), (0.25, 0.25))
        if look.umbrella:
            pose = replace(pose, arm=(0.0, 0.45), elbow=(0.25, 1.75))
        return self._add(look, pose, path, phrase or describe(role, look), rng)

    def _add(
        self, look: Look, pose: _Pose, path: Path | None, phrase: str, rng: np.random.Generator
    ) -> int:
        instance = self.stage.instance(SemanticClass.PERSON, phrase, moves=True)
        first = self.stage.parts(NUM_PARTS)
        _build(self.stage, look, first, instance)
        self._parts.extend(range(first, first + NUM_PARTS))
        self._poses.append(pose)
        self._paths.append(path)
        self._looks.append(look)
        self._phases.append(float(rng.uniform(0, 2 * np.pi)))
        return instance

    def _pose(self, time_s: float) -> Float:
        if self._motion is None:
            self._motion = _Gait(self._poses, self._paths, self._looks, self._phases)
        return self._motion(time_s)


class _Gait:
    """Poses of all parts of all people at a time, (12 N, 3, 4)."""

    def __init__(
        self,
        poses: list[_Pose],
        paths: list[Path | None],
        looks: list[Look],
        phases: list[float],
    ) -> None:
        self.walkers = np.array([i for i, p in enumerate(paths) if p is not None], np.int64)
        self.paths = Paths([p for p in paths if p is not None])
        self.scale = np.array([look.scale for look in looks])
        self.holds = np.array([look.umbrella is not None for look in looks], float)
        self.phase = np.array(phases)
        self.at = np.array([p.at for p in poses], np.float64).reshape(-1, 3)
        self.heading = np.array([p.heading_rad for p in poses])
        self.hip = np.array([np.nan if p.hip_m is None else p.hip_m for p in poses])
        self.thigh = np.array([p.thigh for p in poses])
        self.knee = np.array([p.knee for p in poses])
        self.arm = np.array([p.arm for p in poses]).reshape(-1, 2)
        self.elbow = np.array([p.elbow for p in poses]).reshape(-1, 2)
        self.lying = np.array([p.lying for p in poses], bool)
        self.walks = np.zeros(len(poses))
        self.walks[self.walkers] = 1.0

    def __call__(self, time_s: float) -> Float:
        at, heading, phase = self.at.copy(), self.heading.copy(), self.phase.copy()
        if len(self.walkers):
            xy, turn, gone = self.paths.at(time_s)
            w = self.walkers
            at[w, :2], heading[w] = xy, turn
            phase[w] += gone / (STRIDE_M * self.scale[w]) * 2 * np.pi
        return self._assemble(at, heading, phase, time_s)

    def _assemble(self, at: Float64, heading: Float64, phase: Float64, time_s: float) -> Float:
        both = phase[:, None] + np.array([0.0, np.pi])
        walk = self.walks[:, None]
        swing, lift = np.sin(both), np.maximum(np.cos(both), 0)
        thigh = self.thigh[:, None] + walk * (0.43 * swing + 0.04)
        knee = self.knee[:, None] + walk * (0.10 + 0.85 * lift**2)
        sway = 0.03 * np.sin(0.9 * time_s + self.phase)
        free = walk * np.stack([np.ones(len(at)), 1 - 0.9 * self.holds], 1)
        arm = self.arm + free * (-0.48 * swing) + sway[:, None]
        elbow = self.elbow + free * 0.22 * np.maximum(-swing, 0)
        foot = 0.35 * (thigh - knee) * walk + walk * 0.25 * np.minimum(swing, 0)
        angles = np.concatenate(
            [np.zeros((len(at), 2)), thigh, thigh - knee, foot, arm, arm + elbow], 1
        )
        rotation = _limb_rotations(angles)
        rotation[:, HEAD] = _turns(
            0.35 * np.sin(0.45 * time_s + 3 * self.phase) * (1 - 0.6 * self.walks)
        )
        offset = _joints(rotation, thigh, knee)
        tilt = np.sin(foot)
        sole = np.minimum(TOE_M * tilt, -HEEL_M * tilt) - ANKLE_M * np.cos(foot)
        reach = -(offset[:, FOOT : FOOT + 2, 2] + sole).min(1)
        hip = np.where(np.isnan(self.hip), reach * self.scale, self.hip)
        base = np.where(self.lying[:, None, None], _turns(heading) @ _LYING, _turns(heading))
        origin = at + np.stack([0 * hip, 0 * hip, hip], 1)
        matrices = np.empty((len(at), NUM_PARTS, 3, 4))
        matrices[..., :3] = base[:, None] @ rotation
        offset *= self.scale[:, None, None]
        matrices[..., 3] = origin[:, None] + offset @ base.transpose(0, 2, 1)
        return matrices.reshape(-1, 3, 4).astype(np.float32)


_LYING = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])
_SPREAD = np.zeros(NUM_PARTS)
_SPREAD[[UPPER_ARM, FOREARM]], _SPREAD[[UPPER_ARM + 1, FOREARM + 1]] = 0.085, -0.085


def _turns(yaw_rad: Float64) -> Float64:
    """Rotations about the vertical, (N, 3, 3)."""
    matrices = np.zeros((len(yaw_rad), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(yaw_rad)
    matrices[:, 1, 0] = np.sin(yaw_rad)
    matrices[:, 0, 1] = -matrices[:, 1, 0]
    matrices[:, 2, 2] = 1
    return matrices


def _limb_rotations(forward: Float64) -> Float64:
    """Rotations that swing limbs forward, arms a little away from the body; (N, 12, 3, 3)."""
    c, s = np.cos(forward), np.sin(forward)
    cb, sb = np.cos(_SPREAD), np.sin(_SPREAD)
    matrices = np.zeros((*forward.shape, 3, 3))
    matrices[..., 0, 0], matrices[..., 0, 2] = c, -s
    matrices[..., 1, 0], matrices[..., 1, 1], matrices[..., 1, 2] = -sb * s, cb, -sb * c
    matrices[..., 2, 0], matrices[..., 2, 1], matrices[..., 2, 2] = cb * s, sb, cb * c
    return matrices


def _joints(rotation: Float64, thigh: Float64, knee: Float64) -> Float64:
    """Where each part is jointed, in body axes at scale 1, (N, 12, 3)."""
    offset = np.zeros((len(rotation), NUM_PARTS, 3))
    offset[:, HEAD] = NECK
    for side, sign in enumerate((1.0, -1.0)):
        hip, shoulder = np.array([0, sign * HIP_Y, 0]), np.array(SHOULDER) * [1, sign, 1]
        f, shin = thigh[:, side], thigh[:, side] - knee[:, side]
        offset[:, THIGH + side] = hip
        offset[:, SHIN + side] = hip
        offset[:, SHIN + side, 0] += THIGH_M * np.sin(f)
        offset[:, SHIN + side, 2] -= THIGH_M * np.cos(f)
        offset[:, FOOT + side] = offset[:, SHIN + side]
        offset[:, FOOT + side, 0] += SHIN_M * np.sin(shin)
        offset[:, FOOT + side, 2] -= SHIN_M * np.cos(shin)
        offset[:, UPPER_ARM + side] = shoulder
        offset[:, FOREARM + side] = shoulder - UPPER_ARM_M * rotation[:, UPPER_ARM + side, :, 2]
    return offset


def _fixed_pose(
    posture: str,
    at: tuple[float, float, float],
    heading_rad: float,
    seat_m: float,
    look: Look,
    rng: np.random.Generator,
) -> _Pose:
    if posture == "lying":
        x, y, z = at
        back = 0.08 * look.scale
        middle = (x - back * math.cos(heading_rad), y - back * math.sin(heading_rad), z)
        return _Pose(
            middle, heading_rad, MATTRESS_TO_HIP_M, 0.03, 0.06, (0.1, 0.1), (0.3, 0.3), lying=True
        )
    if posture == "sitting":
        hip = seat_m + SEAT_TO_HIP_M
        return _Pose(at, heading_rad, hip, 1.45, 1.45, (0.45, 0.45), (0.75, 0.75))
    arms = ((0.05, 0.05), (0.18, 0.18))
    if posture == "queueing" and rng.random() < 0.6:  # looks at something held in one hand
        arms = ((0.05, 0.35), (0.2, 1.55))
    elif rng.random() < 0.3:
        arms = ((0.2, 0.2), (1.25, 1.25))
    return _Pose(at, heading_rad, None, 0.0, 0.02, *arms)


def describe(role: Role, look: Look) -> str:
    """What one would call somebody: `a nurse in teal scrubs and a nurse cap`."""
    garment = _GARMENTS.get(look.dress.top)
    color = look.dress.color
    worn = garment.format(color=color) if garment else _an(f"{color} {look.dress.top}".strip())
    parts = [f"{_an(role.name)} in {worn}"]
    hat = look.dress.head if look.dress.head != "none" else look.hat
    if hat:
        parts.append(f"and {_an(hat)}")
    if look.bag:
        parts.append(f"with {_an(look.bag)}")
    if look.umbrella:
        parts.append("under an umbrella")
    return " ".join(parts)


def _an(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _wardrobe_of(rng: np.random.Generator) -> np.random.Generator:
    """A stream for one person's looks, so that what somebody wears moves nobody else."""
    return np.random.default_rng(int(rng.integers(2**62)))


def _look(
    role: Role, stage: Stage, rng: np.random.Generator, *, umbrellas: bool, hats: bool
) -> Look:
    """Decide everything that the role leaves open."""
    dress = role.dress
    plain = dress.top in _CUTS and role.name in _PUBLIC
    name = dress.color or pick(rng, _IN_UNIFORM.get(dress.top, _wardrobe(dress.top, public=plain)))
    child = any(word in role.name for word in _CHILDREN)
    top = _dyed(palette.color(name))
    whole = dress.top in ("scrubs", "robe") or (dress.top == "uniform" and rng.random() < 0.7)
    bottom = tinted(top, rng, 0.1) if whole else pick(rng, palette.TROUSERS)
    wet = stage.scene.weather == "rain" and umbrellas and plain
    look = Look(
        dress=replace(dress, color=name),
        scale=float(rng.uniform(0.60, 0.78) if child else rng.uniform(0.90, 1.08)),
        skin=tinted(pick(rng, palette.SKINS), rng, 0.06),
        hair=pick(rng, palette.HAIRS),
        hair_style=pick(rng, _HAIR_STYLES),
        top=top,
        bottom=bottom,
        shoes=pick(rng, palette.SHOES),
        long_sleeves=dress.top in _LONG_SLEEVES or (dress.top == "shirt" and rng.random() < 0.45),
        build=float(rng.choice(_BUILDS)) * float(rng.uniform(0.96, 1.04)),
        beard=not child and rng.random() < 0.16,
        umbrella=_dyed(palette.color(pick(rng, palette.CLOTHES)))
        if wet and rng.random() < 0.65
        else None,
    )
    if look.beard and look.hair_style not in ("short", "curly", "bald"):
        look = replace(look, hair_style="short")
    return _dressed(look, rng, hats=hats) if plain else look


def _dressed(look: Look, rng: np.random.Generator, *, hats: bool) -> Look:
    """What the public chooses for itself: the cut of what is worn, hat, bag, skirt or trousers."""
    kind = look.dress.top
    hat = pick(rng, _PUBLIC_HATS[kind])
    skirt = look.dress.bottom == "trousers" and not look.beard and rng.random() < 0.2
    accent = _dyed(palette.color(pick(rng, palette.EVERYDAY)))
    return replace(
        look,
        cut=pick(rng, _CUTS[kind]),
        accent=accent,
        bottom=tinted(pick(rng, (accent, look.bottom)), rng, 0.1) if skirt else look.bottom,
        dress=replace(look.dress, bottom="skirt") if skirt else look.dress,
        hat=hat if hats and look.dress.head == "none" else "",
        hat_color=_dyed(palette.color(pick(rng, palette.OUTER))),
        bag="" if look.umbrella and rng.random() < 0.5 else pick(rng, _BAGS),
        bag_color=_dyed(palette.color(pick(rng, palette.OUTER))),
    )


def _wardrobe(kind: str, *, public: bool) -> tuple[str, ...]:
    """Names of colours to choose from."""
    if not public:
        return palette.CLOTHES
    return palette.EVERYDAY if kind == "shirt" else palette.OUTER


def _dyed(shade: Color) -> Color:
    """A colour as cloth has it: even white linen gives back no more than seven tenths."""
    peak = max(shade)
    red, green, blue = (c * min(1.0, 0.70 / peak) for c in shade)
    return red, green, blue


_BUILDS = (0.90, 0.96, 1.0, 1.0, 1.06, 1.13, 1.22)
_HAIR_STYLES = ("short", "short", "short", "long", "bob", "bun", "tail", "curly", "bald")
_PUBLIC = (
    "pedestrian",
    "visitor",
    "tourist",
    "passer-by",
    "commuter",
    "shopper",
    "student",
    "child",
)


def _build(stage: Stage, look: Look, first: int, instance: int) -> None:
    """Put all primitives of a person into the moving mesh."""
    cloth, skin = Material.MATTE, Material.SKIN

    limb = 0.35 + 0.65 * look.build
    breadth = np.ones((NUM_PARTS, 3), np.float32)
    breadth[:, :2] = limb
    breadth[TORSO, :2] = look.build
    breadth[HEAD] = 1.0 if look.scale > 0.85 else 1.16  # children have large heads
    breadth[FOOT : FOOT + 2] = 1.0

    def put(part: int, primitive: Primitive, material: Material, color: ArrayLike) -> None:
        vertices, faces, uv = primitive
        stage.moving.add(
            vertices * breadth[part] * np.float32(look.scale),
            faces,
            material=material,
            instance=instance,
            color=color,
            uv=uv,
            part=first + part,
        )

    _put_torso(put, look)
    _put_head(put, look)
    bare_legs = look.dress.bottom in ("skirt", "shorts")
    hidden = "robe" in (look.dress.bottom, look.dress.top)
    arm_color = _SLEEVE_OF_VEST if look.dress.top == "hi-vis vest" else look.top
    for side in (0, 1):
        if not hidden:
            leg = skin if look.dress.bottom == "skirt" else cloth
            put(THIGH + side, _THIGH, leg, look.skin if leg == skin else look.bottom)
        shin = (skin, look.skin) if bare_legs else (cloth, look.bottom)
        put(SHIN + side, _SHIN_BARE if bare_legs or hidden else _SHIN, *shin)
        put(FOOT + side, _SHOE, cloth, look.shoes)
        put(UPPER_ARM + side, _UPPER_ARM, cloth, arm_color)
        sleeve = (cloth, arm_color) if look.long_sleeves else (skin, look.skin)
        put(FOREARM + side, _FOREARM if look.long_sleeves else _FOREARM_BARE, *sleeve)
        put(FOREARM + side, _HAND, skin, look.skin)
    if look.bag == "handbag":
        put(FOREARM, _HANDBAG, cloth, look.bag_color)


_SLEEVE_OF_VEST = palette.COLORS["charcoal"]
_SILVER = palette.COLORS["silver"]
_DARK = palette.COLORS["black"]

_HIPS = loft([(-0.10, 0.085, 0.125), (-0.02, 0.110, 0.166), (0.06, 0.106, 0.158)], num_sides=9)
_TRUNK = loft(
    [
        *((-0.04, 0.128, 0.190), (0.02, 0.121, 0.180), (0.15, 0.104, 0.154)),
        *((0.36, 0.122, 0.184), (0.47, 0.106, 0.188), (0.53, 0.072, 0.122), (0.565, 0.05, 0.055)),
    ],
    num_sides=9,
)
_THIGH = loft([(-0.47, 0.056, 0.056), (-0.2, 0.073, 0.073), (0.03, 0.084, 0.080)], num_sides=7)
_SHIN = loft([(-0.39, 0.052, 0.05), (-0.12, 0.058, 0.056), (0.03, 0.057, 0.057)], num_sides=7)
_SHIN_BARE = loft([(-0.40, 0.033, 0.033), (-0.13, 0.052, 0.05), (0.03, 0.05, 0.05)], num_sides=7)
_SHOE = loft(
    [
        *((-0.08, 0.130, 0.050, 0.045, 0), (-0.045, 0.125, 0.048, 0.045, 0)),
        (0.015, 0.055, 0.042, 0.0, 0),
    ],
    num_sides=8,
)
_UPPER_ARM = loft(
    [(-0.30, 0.041, 0.041), (-0.1, 0.050, 0.050), (-0.01, 0.052, 0.050), (0.035, 0.030, 0.030)],
    num_sides=7,
)
_FOREARM = loft([(-0.235, 0.036, 0.037), (-0.08, 0.044, 0.044), (0.02, 0.043, 0.043)], num_sides=7)
_FOREARM_BARE = loft(
    [(-0.25, 0.027, 0.029), (-0.08, 0.039, 0.039), (0.02, 0.041, 0.041)], num_sides=7
)
_HAND = loft([(-0.37, 0.012, 0.022), (-0.30, 0.022, 0.042), (-0.235, 0.023, 0.030)], num_sides=6)
_SKULL = joined(
    [
        shifted(sphere((0.098, 0.080, 0.118), num_rings=7, num_sides=9), (0.012, 0, 0.125)),
        loft([(-0.03, 0.052, 0.054), (0.06, 0.048, 0.050)], num_sides=8, caps=False),
        shifted(sphere((0.022, 0.014, 0.024), num_rings=4, num_sides=6), (0.108, 0, 0.115)),
    ]
)
_EYES = joined(
    [
        quad(
            [
                (0.106, y - 0.011, 0.137),
                (0.106, y + 0.011, 0.137),
                (0.104, y + 0.011, 0.152),
                (0.104, y - 0.011, 0.152),
            ]
        )
        for y in (-0.034, 0.034)
    ]
)
_HAIR = {
    "short": joined(
        [
            shifted(dome((0.103, 0.090, 0.124), from_deg=12, num_sides=9), (-0.003, 0, 0.130)),
            loft(
                [(0.06, 0.045, 0.062, -0.058, 0), (0.15, 0.062, 0.088, -0.042, 0)],
                num_sides=8,
                caps=False,
            ),
        ]
    ),
    "long": joined(
        [
            shifted(dome((0.106, 0.094, 0.128), from_deg=8, num_sides=9), (-0.004, 0, 0.130)),
            loft([(-0.10, 0.035, 0.085, -0.075, 0), (0.16, 0.070, 0.096, -0.040, 0)], num_sides=8),
        ]
    ),
    "bun": joined(
        [
            shifted(dome((0.103, 0.090, 0.124), from_deg=8, num_sides=9), (-0.003, 0, 0.130)),
            shifted(sphere((0.05, 0.05, 0.05), num_rings=5, num_sides=7), (-0.115, 0, 0.20)),
        ]
    ),
}
_HAIR["bob"] = joined(
    [
        shifted(dome((0.107, 0.098, 0.126), from_deg=8, num_sides=9), (-0.004, 0, 0.130)),
        loft([(0.02, 0.062, 0.104, -0.040, 0), (0.16, 0.074, 0.099, -0.036, 0)], num_sides=9),
    ]
)
_HAIR["tail"] = joined(
    [
        _HAIR["short"],
        loft(
            [
                (-0.14, 0.012, 0.018, -0.125, 0),
                (0.02, 0.030, 0.036, -0.130, 0),
                (0.19, 0.016, 0.02, -0.1, 0),
            ],
            num_sides=6,
        ),
    ]
)
_HAIR["curly"] = joined(
    [
        shifted(sphere((0.135, 0.130, 0.125), num_rings=5, num_sides=9), (-0.035, 0, 0.185)),
        loft([(0.04, 0.050, 0.075, -0.058, 0), (0.15, 0.075, 0.112, -0.045, 0)], num_sides=8),
    ]
)
_BEARD = loft(
    [
        (0.005, 0.030, 0.034, 0.062, 0),
        (0.045, 0.052, 0.066, 0.050, 0),
        (0.085, 0.050, 0.074, 0.044, 0),
    ],
    num_sides=8,
)
_HATS: dict[str, Primitive] = {
    "cap": joined(
        [
            shifted(dome((0.108, 0.094, 0.115), from_deg=6, num_sides=9), (0, 0, 0.155)),
            boxes([(0.06, -0.06, 0.160)], [(0.18, 0.06, 0.172)], sides=range(6)),
        ]
    ),
    "headscarf": joined(
        [
            shifted(dome((0.112, 0.098, 0.132), from_deg=-10, num_sides=9), (-0.012, 0, 0.132)),
            loft(
                [
                    (-0.10, 0.125, 0.165, -0.01, 0),
                    (-0.03, 0.085, 0.10, -0.015, 0),
                    (0.13, 0.098, 0.096, -0.03, 0),
                ],
                num_sides=9,
                caps=False,
            ),
        ]
    ),
    "straw hat": joined(
        [
            shifted(dome((0.106, 0.094, 0.115), from_deg=6, num_sides=10), (0, 0, 0.165)),
            loft([(0.158, 0.21, 0.20), (0.172, 0.20, 0.19)], num_sides=12),
        ]
    ),
    "hard hat": joined(
        [
            shifted(dome((0.125, 0.110, 0.130), from_deg=4, num_sides=10), (0, 0, 0.150)),
            loft([(0.146, 0.150, 0.125, 0.015, 0), (0.160, 0.145, 0.12, 0.012, 0)], num_sides=10),
        ]
    ),
    "nurse cap": joined(
        [loft([(0.215, 0.060, 0.075, 0.02, 0), (0.285, 0.068, 0.088, 0.0, 0)], num_sides=8)]
    ),
}
_HATS["beanie"] = joined(
    [
        shifted(dome((0.112, 0.100, 0.125), from_deg=2, num_sides=9), (-0.002, 0, 0.155)),
        loft([(0.140, 0.117, 0.105), (0.185, 0.119, 0.107)], num_sides=9, caps=False),
    ]
)
_HATS["bucket hat"] = joined(
    [
        loft([(0.17, 0.112, 0.100), (0.245, 0.098, 0.088)], num_sides=9),
        loft([(0.150, 0.165, 0.155), (0.185, 0.112, 0.100)], num_sides=10),
    ]
)
_HAT_COLORS = {"straw hat": palette.COLORS["amber"], "nurse cap": palette.COLORS["white"]}
_SKIRTS = {
    "skirt": loft(
        [
            (-0.44, 0.205, 0.235),
            (-0.20, 0.165, 0.205),
            (-0.045, 0.122, 0.182),
            (0.06, 0.105, 0.150),
        ],
        num_sides=9,
    ),
    "robe": loft(
        [(-0.80, 0.250, 0.270), (-0.35, 0.190, 0.220), (0.08, 0.118, 0.165)], num_sides=10
    ),
    "coat": loft(
        [(-0.46, 0.205, 0.235), (-0.15, 0.150, 0.200), (0.14, 0.115, 0.162)], num_sides=10
    ),
}
_SKIRTS["short coat"] = loft(
    [(-0.24, 0.160, 0.205), (-0.08, 0.140, 0.196), (0.14, 0.116, 0.164)], num_sides=10
)
_SKIRTS["narrow skirt"] = loft(
    [(-0.54, 0.165, 0.200), (-0.26, 0.135, 0.180), (0.06, 0.100, 0.150)], num_sides=10
)
_HEM = loft([(-0.15, 0.132, 0.186), (-0.04, 0.136, 0.194), (0.06, 0.120, 0.176)], num_sides=9)
_STRIPES = joined(
    [
        loft([(z, rx, ry), (z + 0.045, rx, ry)], num_sides=9, caps=False)
        for z, rx, ry in (
            (0.04, 0.122, 0.180),
            (0.14, 0.110, 0.161),
            (0.24, 0.117, 0.173),
            (0.34, 0.125, 0.188),
        )
    ]
)
_YOKE = loft(
    [(0.27, 0.118, 0.174), (0.36, 0.126, 0.189), (0.47, 0.110, 0.193), (0.53, 0.076, 0.127)],
    num_sides=9,
    caps=False,
)
_PRINT = quad(
    [(0.126, -0.075, 0.24), (0.126, 0.075, 0.24), (0.131, 0.075, 0.37), (0.131, -0.075, 0.37)]
)
_HOOD = shifted(sphere((0.085, 0.115, 0.075), num_rings=4, num_sides=8), (-0.085, 0, 0.50))
_ZIP = quad(
    [(0.135, -0.006, -0.05), (0.135, 0.006, -0.05), (0.116, 0.006, 0.50), (0.116, -0.006, 0.50)]
)
_FRONT = joined(
    [
        quad(
            [
                (0.140, -0.045, -0.13),
                (0.140, 0.045, -0.13),
                (0.122, 0.045, 0.14),
                (0.122, -0.045, 0.14),
            ]
        ),
        quad(
            [(0.122, -0.045, 0.14), (0.122, 0.045, 0.14), (0.136, 0.05, 0.37), (0.136, -0.05, 0.37)]
        ),
        quad(
            [(0.136, -0.05, 0.37), (0.136, 0.05, 0.37), (0.098, 0.045, 0.53), (0.098, -0.045, 0.53)]
        ),
    ]
)
_BLAZER = (
    np.array([(0.126, 0.0, 0.20), (0.102, 0.065, 0.525), (0.102, -0.065, 0.525)], np.float32),
    np.array([(0, 1, 2)], np.int32),
    np.zeros((3, 2), np.float32),
)
_COLLAR = loft([(0.515, 0.084, 0.096), (0.60, 0.066, 0.074)], num_sides=8, caps=False)
_SCARF = loft([(0.510, 0.078, 0.088), (0.545, 0.098, 0.104), (0.61, 0.070, 0.074)], num_sides=8)
_STRAPS = joined(
    [
        quad(
            [
                (0.136, y - 0.022, 0.12),
                (0.136, y + 0.022, 0.12),
                (0.132, y + 0.022, 0.40),
                (0.132, y - 0.022, 0.40),
            ]
        )
        for y in (-0.10, 0.10)
    ]
    + [
        quad(
            [
                (0.132, y - 0.022, 0.40),
                (0.132, y + 0.022, 0.40),
                (0.02, y + 0.022, 0.555),
                (0.02, y - 0.022, 0.555),
            ]
        )
        for y in (-0.10, 0.10)
    ]
)
_SHOULDER_BAG = joined(
    [
        loft([(-0.20, 0.125, 0.045, 0.02, 0.235), (0.02, 0.105, 0.055, 0.02, 0.228)], num_sides=8),
        tube(
            [(0.125, 0.20, 0.02), (0.140, 0.05, 0.28), (0.105, -0.10, 0.47), (0.0, -0.13, 0.56)],
            0.014,
            num_sides=4,
        ),
        tube(
            [(-0.10, 0.20, 0.02), (-0.140, 0.05, 0.28), (-0.110, -0.10, 0.47), (0.0, -0.13, 0.56)],
            0.014,
            num_sides=4,
        ),
    ]
)
_HANDBAG = joined(
    [
        boxes([(-0.15, -0.045, -0.66)], [(0.15, 0.045, -0.45)], sides=range(6)),
        tube([(-0.07, 0, -0.46), (0.0, 0, -0.33), (0.07, 0, -0.46)], 0.010, num_sides=4),
    ]
)
_BELT = loft([(0.03, 0.124, 0.181), (0.075, 0.119, 0.174)], num_sides=9)
_BANDS = joined(
    [
        loft([(0.10, 0.112, 0.162), (0.145, 0.112, 0.162)], num_sides=9),
        loft([(0.25, 0.122, 0.180), (0.295, 0.126, 0.186)], num_sides=9),
    ]
)
_LAPELS = joined(
    [
        quad([(0.124, y0, 0.14), (0.124, y1, 0.14), (0.110, y1, 0.50), (0.110, y0, 0.50)])
        for y0, y1 in ((-0.035, 0.035),)
    ]
)
_NECKLINE = (
    np.array([(0.128, 0.0, 0.37), (0.098, 0.055, 0.515), (0.098, -0.055, 0.515)], np.float32),
    np.array([(0, 1, 2)], np.int32),
    np.zeros((3, 2), np.float32),
)
_BADGE = quad([(0.127, 0.06, 0.37), (0.127, 0.11, 0.37), (0.123, 0.11, 0.41), (0.123, 0.06, 0.41)])
_BACKPACK = loft(
    [(0.06, 0.07, 0.13, -0.18, 0), (0.3, 0.085, 0.15, -0.19, 0), (0.46, 0.05, 0.11, -0.15, 0)],
    num_sides=8,
)
_UMBRELLA_SHAFT = tube([(0.24, -0.2, 0.22), (0.18, -0.15, 1.24)], 0.012, num_sides=5)
_CANOPY_AT = (0.18, -0.15, 0.98)
_UMBRELLA = joined(
    [
        shifted(dome((0.56, 0.56, 0.28), from_deg=8, num_sides=10), _CANOPY_AT),
        flipped(shifted(dome((0.55, 0.55, 0.26), from_deg=8, num_sides=10), _CANOPY_AT)),
    ]
)


def _put_torso(put: Callable[..., None], look: Look) -> None:
    cloth, dress = Material.MATTE, look.dress
    put(TORSO, _HIPS, cloth, look.bottom)
    put(TORSO, _TRUNK, cloth, look.top)
    skirt = dress.top if dress.top in ("coat", "robe") else dress.bottom
    if skirt == "coat" and look.cut in ("short", "hood"):
        skirt = "short coat"
    if skirt in _SKIRTS:
        put(TORSO, _SKIRTS[skirt], cloth, look.bottom if skirt == "skirt" else look.top)
    if skirt in ("coat", "short coat") and dress.bottom == "skirt":
        put(TORSO, _SKIRTS["narrow skirt"], cloth, look.bottom)
    if dress.top == "uniform":
        put(TORSO, _BELT, cloth, _DARK)
        put(TORSO, _BADGE, Material.METAL, palette.COLORS["gold"])
    elif dress.top == "hi-vis vest":
        put(TORSO, _BANDS, Material.METAL, _SILVER)
    elif dress.top == "coat" and dress.color == "white":
        put(TORSO, _LAPELS, cloth, palette.COLORS["pale blue"])
    elif dress.top == "scrubs":
        put(TORSO, _NECKLINE, Material.SKIN, look.skin)
    _put_cut(put, look)
    if look.bag == "backpack":
        put(TORSO, _BACKPACK, cloth, look.bag_color)
        put(TORSO, _STRAPS, cloth, look.bag_color)
    elif look.bag == "shoulder bag":
        put(TORSO, _SHOULDER_BAG, cloth, look.bag_color)
    if look.umbrella:
        put(TORSO, _UMBRELLA, cloth, look.umbrella)
        put(TORSO, _UMBRELLA_SHAFT, Material.METAL, _DARK)


def _put_cut(put: Callable[..., None], look: Look) -> None:
    """What makes one shirt, jacket or coat unlike another."""
    cloth, cut = Material.MATTE, look.cut
    if not cut:
        return
    over = look.dress.top != "coat" and look.dress.bottom != "skirt"  # what is worn over trousers
    if over and cut in ("loose", "open", "zip", "hood", "print"):
        put(TORSO, _HEM, cloth, look.top)
    if cut == "striped":
        put(TORSO, _STRIPES, cloth, look.accent)
    elif cut == "yoke":
        put(TORSO, _YOKE, cloth, look.accent)
    elif cut == "print":
        put(TORSO, _PRINT, cloth, look.accent)
    elif cut == "belted":
        put(TORSO, _BELT, cloth, _DARK)
    elif cut == "hood":
        put(TORSO, _HOOD, cloth, look.top)
    elif cut in ("zip", "long", "short"):
        put(TORSO, _ZIP, Material.METAL, _SILVER if cut == "zip" else _DARK)
    elif cut == "blazer":
        put(TORSO, _BLAZER, cloth, look.accent)
    elif cut == "open":
        put(TORSO, _FRONT, cloth, look.accent)
    if look.dress.top == "coat" and cut != "hood":
        put(TORSO, _SCARF, cloth, look.accent)
    elif look.dress.top != "shirt" and cut != "hood":
        put(TORSO, _COLLAR, cloth, look.top)


def _put_head(put: Callable[..., None], look: Look) -> None:
    hat = look.dress.head if look.dress.head != "none" else look.hat
    put(HEAD, _SKULL, Material.SKIN, look.skin)
    put(HEAD, _EYES, Material.MATTE, _DARK)
    style = look.hair_style
    if hat in _HATS and style in ("bun", "curly"):
        style = "short"  # there is no room under it
    if style in _HAIR and hat != "headscarf":
        put(HEAD, _HAIR[style], Material.MATTE, look.hair)
    if look.beard:
        put(HEAD, _BEARD, Material.MATTE, look.hair)
    if hat in _HATS:
        own = look.hat_color if hat == look.hat else look.top
        put(HEAD, _HATS[hat], Material.MATTE, _HAT_COLORS.get(hat, own))
