"""The rasterizer against worlds whose picture is known."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_jobs.render_clips.audit import check_frame
from gpu_jobs.render_clips.engine import NO_DEPTH, Engine, Frame, _tone_curve
from tests.factories import make_scene
from worldloop.errors import ClipRejectedError
from worldloop.recipes import Recipe, Shape
from worldloop.worlds.geometry import Material, MeshBuilder, SemanticClass, box, quad, sphere
from worldloop.worlds.grammar import build_world
from worldloop.worlds.world import Air, Instance, Room, Track, World

SHAPE = Shape(num_frames=2, width_px=64, height_px=36, num_samples=5)
INSTITUTIONS = ("street", "hospital", "zoo", "museum", "amusement_park")
WALL = [(5, 4, -3), (5, -4, -3), (5, -4, 5), (5, 4, 5)]  # 5 m ahead of the camera, facing it
FORWARD = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # columns: right, down, forward = +x
AIR = Air(
    sun_direction=(-0.6, 0.3, 0.74),
    sun_color=(5.0, 4.7, 4.2),
    zenith_color=(0.26, 0.5, 1.0),
    horizon_color=(0.85, 1.0, 1.2),
    fog_color=(0.7, 0.8, 0.9),
    fog_per_m=0.002,
    lamp_level=0.0,
    wetness=0.0,
    clouds=0.2,
    rain=0.0,
    snow=0.0,
    exposure=1.0,
)


def still(num_parts: int) -> Callable[[float], NDArray[np.float32]]:
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (num_parts, 1, 1))
    return lambda time_s: poses


def make_world(static: MeshBuilder, moving: MeshBuilder | None = None) -> World:
    camera = np.tile(np.eye(4), (2, 1, 1))
    camera[:, :3, :3] = FORWARD
    camera[:, 2, 3] = 1.0
    sign = np.zeros((1, 16, 32, 3), np.uint8)
    sign[:, :, :16, 0] = 255
    sign[:, :, 16:, 2] = 255
    return World(
        static=static.build(),
        moving=(moving or MeshBuilder()).build(),
        pose=still(1),
        instances=(
            Instance(SemanticClass.SKY, "the sky"),
            Instance(SemanticClass.WALL, "a wall"),
            Instance(SemanticClass.PROP, "a box", moves=True),
        ),
        lamps=np.zeros((0, 7), np.float32),
        signs=sign,
        air=AIR,
        room=None,
        track=Track(
            np.zeros((2, 6), bool),
            np.zeros((2, 2), np.float32),
            camera,
            np.zeros((2, 3), np.float32),
            fov_deg=90.0,
        ),
    )


def a_wall(material: Material = Material.MATTE, *, turned: bool = False) -> MeshBuilder:
    vertices, faces, uv = quad(WALL[1::-1] + WALL[:1:-1] if turned else WALL)
    return MeshBuilder().add(
        vertices,
        faces,
        material=material,
        instance=1,
        color=(0.5, 0.5, 0.5) if material else 0.5,
        uv=uv,
    )


def test_depth_is_measured_along_the_optical_axis() -> None:
    frame = Engine(make_world(a_wall()), SHAPE).render(0)
    wall = frame.instance == 1
    assert wall.mean() > 0.5
    np.testing.assert_allclose(frame.depth[wall], 5.0, atol=1e-4)
    assert (frame.depth[~wall] == 0).all()


def test_the_nearer_of_two_things_is_seen_whatever_their_order() -> None:
    near, faces, uv = box((3, -0.5, 0.5), (4, 0.5, 1.5))
    kwargs = {"material": Material.MATTE, "instance": 2, "color": (0.6, 0.2, 0.2), "uv": uv}
    behind_first = a_wall().add(near, faces, **kwargs)
    vertices, wall_faces, wall_uv = quad(WALL)
    before = MeshBuilder().add(near, faces, **kwargs)
    before.add(
        vertices, wall_faces, material=Material.MATTE, instance=1, color=(0.5, 0.5, 0.5), uv=wall_uv
    )
    one, other = (Engine(make_world(m), SHAPE).render(0) for m in (behind_first, before))
    np.testing.assert_array_equal(one.instance, other.instance)
    assert one.instance[18, 32] == 2
    assert one.depth[18, 32] == pytest.approx(3.0, abs=1e-4)


def test_a_moving_part_is_drawn_where_its_pose_puts_it() -> None:
    vertices, faces, uv = box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5), bottom=True)
    moving = MeshBuilder().add(
        vertices, faces, material=Material.PAINT, instance=2, color=(0.1, 0.3, 0.7), uv=uv
    )
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (1, 1, 1))

    def pose(time_s: float) -> NDArray[np.float32]:
        poses[0, :, 3] = (4.0, 1.5 - 72.0 * time_s, 1.0)
        return poses

    engine = Engine(replace(make_world(a_wall(), moving), pose=pose), SHAPE)
    first, second = (np.flatnonzero((engine.render(i).instance == 2).any(0)) for i in (0, 1))
    assert first.mean() < 32 < second.mean()


def test_a_sign_reads_from_left_to_right_in_front_and_is_blank_behind() -> None:
    front = Engine(make_world(a_wall(Material.SIGN)), SHAPE).render(0).rgb.astype(int)
    assert front[18, 20, 0] > front[18, 20, 2] + 60
    assert front[18, 44, 2] > front[18, 44, 0] + 60
    behind = Engine(make_world(a_wall(Material.SIGN, turned=True)), SHAPE).render(0).rgb
    assert np.ptp(behind[18, 20:44].astype(int), axis=1).max() < 40


def test_boxes_hold_exactly_the_pixels_of_their_instance() -> None:
    frame = Engine(make_world(a_wall()), SHAPE).render(0)
    rows, columns = np.nonzero(frame.instance == 1)
    expected = [columns.min(), rows.min(), columns.max(), rows.max(), len(rows), 0]
    assert frame.boxes[1].tolist() == expected


@pytest.mark.parametrize("material", list(Material))
@pytest.mark.parametrize("hour", ["day", "night", "indoors"])
def test_every_material_has_a_finite_colour(material: Material, hour: str) -> None:
    vertices, faces, uv = sphere(1.0, num_rings=4, num_sides=6)
    static = MeshBuilder().add(
        vertices + [3, 0, 1], faces, material=material, instance=1, color=(0.4, 0.3, 0.2), uv=uv
    )
    world = make_world(static)
    if hour == "night":
        lamps = np.array([[2, 1, 3, 9, 8, 6, 10]], np.float32)
        dark = replace(AIR, sun_color=(0.03, 0.04, 0.07), lamp_level=1.0, wetness=1.0, rain=1.0)
        world = replace(world, air=dark, lamps=lamps)
    if hour == "indoors":
        world = replace(world, room=Room((-5, -5, 0), (8, 5, 4), (0.6, 0.6, 0.6)))
    engine = Engine(world, SHAPE)
    frame = engine.render(0)
    assert (frame.instance == 1).sum() > 100
    assert np.isfinite(engine.mirrored.numpy()).all()
    assert engine.mirrored.numpy().min() >= 0
    assert frame.rgb.any()
    assert frame.rgb[frame.instance == 1].std() > 1.0


FACADES = [m for m in Material if m.name.startswith("FACADE")]


def a_facade(material: Material) -> NDArray[np.uint8]:
    """The upper storeys of a house front, 8 m wide."""
    vertices, faces, uv = quad(WALL, unit_uv=False)
    static = MeshBuilder().add(
        vertices, faces, material=material, instance=1, color=(0.3, 0.3, 0.3), uv=uv + [0, 5]
    )
    return Engine(make_world(static), SHAPE).render(0).rgb


def test_the_material_of_a_facade_decides_its_wall() -> None:
    fronts = [a_facade(material).astype(int) for material in FACADES]
    assert len(fronts) == 5
    for one, other in itertools.combinations(fronts, 2):
        assert np.abs(one - other).mean() > 2.0


@pytest.mark.parametrize("instance", [1, 2])
def test_every_brick_house_shows_its_courses_between_the_windows(instance: int) -> None:
    def roughness(material: Material) -> float:
        vertices, faces, uv = quad(WALL, unit_uv=False)
        strip = uv * [0.03, 1.0] + [0.05, 5.0]
        static = MeshBuilder().add(
            vertices, faces, material=material, instance=instance, color=(0.3, 0.1, 0.1), uv=strip
        )
        shape = Shape(num_frames=2, width_px=256, height_px=144, num_samples=1)
        middle = Engine(make_world(static), shape).render(0).rgb[:, 100:156].astype(int)
        return float(np.abs(np.diff(middle, axis=0)).mean())

    assert roughness(Material.FACADE_BRICK) > 3 * roughness(Material.FACADE)


@pytest.mark.parametrize("storeys_m", [8.0, 80.0])
def test_lit_windows_never_take_light_away(storeys_m: float) -> None:
    vertices, faces, uv = quad(WALL, unit_uv=False)
    static = MeshBuilder().add(
        vertices,
        faces,
        material=Material.FACADE,
        instance=1,
        color=(0.01, 0.01, 0.01),
        uv=uv * (storeys_m / 8.0),
    )
    dark = replace(AIR, sun_color=(0, 0, 0), zenith_color=(0, 0, 0), horizon_color=(0, 0, 0))
    engine = Engine(replace(make_world(static), air=replace(dark, lamp_level=1.0)), SHAPE)
    engine.render(0)
    light = engine.hdr.numpy()
    assert light.min() >= 0
    assert light.max() > 0.1


def test_frames_depend_on_the_world_alone() -> None:
    once, again = (Engine(make_world(a_wall()), SHAPE) for _ in range(2))
    for index in range(2):
        np.testing.assert_array_equal(once.render(index).rgb, again.render(index).rgb)


def test_sharing_triangles_among_threads_changes_no_bit() -> None:
    static = a_wall()
    for material, x, y in ((Material.FOLIAGE, 3, 0.5), (Material.PAINT, 4, -2)):
        vertices, faces, uv = sphere(1.0, num_rings=12, num_sides=16)
        static.add(
            vertices + [x, y, 1], faces, material=material, instance=1, color=(0.3, 0.4, 0.2), uv=uv
        )
    vertices, faces, uv = box((2, -1, 1), (3, 1, 1.2), bottom=True)
    moving = MeshBuilder().add(
        vertices, faces, material=Material.WOOD, instance=2, color=(0.4, 0.3, 0.1), uv=uv
    )
    shape = replace(SHAPE, width_px=100, height_px=52)
    by_cluster, by_triangle = (
        Engine(make_world(static, moving), shape, by_triangle=choice) for choice in (False, True)
    )
    for index in range(2):
        one, other = by_cluster.render(index), by_triangle.render(index)
        for name in ("rgb", "depth", "instance", "normal", "boxes"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(by_cluster.keys.numpy(), by_triangle.keys.numpy())
    for name in ("shadow", "moving_shadow"):
        maps = [getattr(engine.scene, name).numpy() for engine in (by_cluster, by_triangle)]
        np.testing.assert_array_equal(*maps)
        assert (maps[0] < NO_DEPTH).any()
    num_small, num_large = by_triangle.queue_lengths.numpy()
    assert num_small > 100
    assert num_large > 1


def test_snowflakes_are_small_and_do_not_hide_the_view() -> None:
    clear = make_world(a_wall())
    shape = Shape(num_frames=2, width_px=256, height_px=144, num_samples=1)
    still_air, snowing = (
        Engine(replace(clear, air=replace(AIR, snow=snow)), shape) for snow in (0.0, 1.0)
    )
    snowing.light.snow = 0.0  # flakes in the air alone, without snow that lies
    change = np.abs(snowing.render(0).rgb.astype(int) - still_air.render(0).rgb).max(2) > 12
    assert 0.005 < change.mean() < 0.12
    inner = change[1:-1, 1:-1] & change[:-2, 1:-1] & change[2:, 1:-1]
    assert (inner & change[1:-1, :-2] & change[1:-1, 2:]).mean() < 0.01


def test_an_unknown_number_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="num_samples is 3"):
        Engine(make_world(a_wall()), replace(SHAPE, num_samples=3))


def frame_of(*, depth_m: float, instance: int, level: int) -> Frame:
    pixels = np.zeros((36, 64, 3), np.uint8)
    pixels[::2] = level
    boxes = np.zeros((3, 6), np.int32)
    boxes[instance] = (0, 0, 63, 35, 64 * 36, 64 * 36 if depth_m < 1 else 0)
    return Frame(
        pixels,
        np.full((36, 64), depth_m, np.float32),
        np.full((36, 64), instance, np.int32),
        np.zeros((36, 64, 3), np.float32),
        boxes,
    )


@pytest.mark.parametrize(
    ("depth_m", "level", "reason"),
    [
        (0.2, 200, "nearer than 0.35 m"),
        (0.8, 200, "'a wall' nearer than 1 m"),
        (9.0, 2, "contrast"),
    ],
)
def test_an_unusable_frame_is_rejected_with_its_reason(
    depth_m: float, level: int, reason: str
) -> None:
    instances = make_world(a_wall()).instances
    with pytest.raises(ClipRejectedError, match=reason) as caught:
        check_frame(7, frame_of(depth_m=depth_m, instance=1, level=level), instances)
    assert caught.value.stage == "audit"


def test_a_usable_frame_passes() -> None:
    check_frame(0, frame_of(depth_m=5.0, instance=1, level=200), make_world(a_wall()).instances)


def test_the_tone_curve_tells_bright_from_brighter() -> None:
    curve = _tone_curve().astype(int)
    middle, *bright = (curve[int(v / (v + 1) * 4095)] for v in (0.185, 1.0, 2.0, 4.0, 8.0))
    assert middle == pytest.approx(128, abs=3)
    assert (np.diff(bright) >= 4).all()
    assert bright[-1] < 254
    assert (np.diff(curve) >= 0).all()


def test_sunlit_white_does_not_glow_but_a_lamp_does() -> None:
    def glow(material: Material) -> float:
        vertices, faces, uv = quad(
            [(4.5, y, 1 + z) for y, z in ((1, -1), (-1, -1), (-1, 1), (1, 1))]
        )
        static = a_wall().add(
            vertices, faces, material=material, instance=2, color=(0.8, 0.8, 0.8), uv=uv
        )
        engine = Engine(replace(make_world(static), air=replace(AIR, lamp_level=1.0)), SHAPE)
        assert (engine.render(0).instance == 2).mean() > 0.05
        return float(engine.bloom[0].numpy().reshape(9, 16, 3)[4, 8].max())

    assert glow(Material.MATTE) == 0
    assert glow(Material.LAMP) > 0.05


def test_what_is_beside_a_lamp_is_not_burnt() -> None:
    dark = replace(AIR, sun_color=(0, 0, 0), zenith_color=(0, 0, 0), horizon_color=(0, 0, 0))
    lamps = np.array([[4.5, 0.0, 1.0, 8.0, 8.0, 8.0, 15.0]], np.float32)
    night = replace(make_world(a_wall()), air=replace(dark, lamp_level=1.0), lamps=lamps)
    engine = Engine(night, SHAPE)
    engine.render(0)
    light = engine.hdr.numpy()[:, 1].reshape(36, 64)
    near, aside = light[18, 32], light[18, 38]  # half a metre from the lamp, and a metre
    assert aside < near < 4 * aside


@pytest.mark.parametrize("institution", INSTITUTIONS)
def test_almost_nothing_in_a_frame_is_burnt_out(institution: str) -> None:
    """White in all channels: no more than the cores of lamps."""
    shape = Shape(num_frames=2, width_px=128, height_px=72, num_samples=1)
    burnt = []
    for seed, elevation_deg in ((1, 8.0), (2, 55.0), (3, -20.0)):
        scene = make_scene(institution, seed=seed, sun_elevation_deg=elevation_deg)
        rgb = Engine(build_world(Recipe(scene, shape)), shape).render(0).rgb
        burnt.append((rgb.min(2) >= 250).mean())
    assert np.mean(burnt) < 0.001


def test_snow_falls_behind_what_is_nearer_than_it() -> None:
    def flakes(away_m: float) -> float:
        vertices, faces, uv = quad([(away_m, y, z) for _, y, z in WALL])
        wall = MeshBuilder().add(
            vertices, faces, material=Material.MATTE, instance=1, color=(0.2, 0.2, 0.2), uv=uv
        )
        shape = Shape(num_frames=2, width_px=256, height_px=144, num_samples=1)
        engines = [
            Engine(replace(make_world(wall), air=replace(AIR, snow=snow)), shape)
            for snow in (0.0, 1.0)
        ]
        engines[1].light.snow = 0.0  # flakes in the air alone, without snow that lies
        before, after = (engine.render(0).rgb.astype(int) for engine in engines)
        return float((np.abs(after - before).max(2)[30:110, 100:156] > 12).mean())

    assert flakes(1.2) == 0
    assert 0 < flakes(3.0) < flakes(12.0)


def test_no_snowflake_is_a_disc_in_large_frames() -> None:
    shape = Shape(num_frames=2, width_px=320, height_px=704, num_samples=1)
    still_air, snowing = (
        Engine(replace(make_world(a_wall()), air=replace(AIR, snow=snow)), shape)
        for snow in (0.0, 1.0)
    )
    snowing.light.snow = 0.0
    change = np.abs(snowing.render(0).rgb.astype(int) - still_air.render(0).rgb).max(2) > 25
    across = np.lib.stride_tricks.sliding_window_view(change, 5, axis=1).all(-1)
    assert change.mean() > 0.001
    assert across.mean() < 0.1 * change.mean()  # hardly anywhere five pixels wide
