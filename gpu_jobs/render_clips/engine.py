"""The rasterizer: holds the arrays of one world and draws its frames in order.

Import this module inside a job function only: it brings Warp with it.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.render_clips import kernels
from worldloop.recipes import Shape
from worldloop.seeds import stream
from worldloop.worlds.geometry import Material, Mesh, SemanticClass
from worldloop.worlds.world import World

SAMPLE_OFFSETS = (
    (0.5, 0.5),
    (0.375, 0.125),
    (0.875, 0.375),
    (0.125, 0.625),
    (0.625, 0.875),
)
CLUSTER_FACES = 24
SHADOW_TEXELS = 2048
MOVING_SHADOW_TEXELS = 512
MOVING_SHADOW_PER_M = 9.0
FIELD_PER_M = 2.0
REGION_MARGIN_M = 75.0
NO_DEPTH = 1.0e9
LIGHT_CELL_M = 4.0
BLOOM_ABOVE = 1.5  # exposed radiance: lamps, skies and the sun glow, sunlit cloth and paint do not
BLOOM_GAIN = 0.24
SHOULDER_FROM = 0.41  # exposed radiance where the straight part of the tone curve ends

# Faces that nobody sees from behind: closed solids, and grounds. Their backs are not drawn.
ONE_SIDED = (
    Material.ASPHALT,
    Material.PAVING,
    Material.GRASS,
    Material.SAND,
    Material.FACADE,
    Material.FACADE_BRICK,
    Material.FACADE_STONE,
    Material.FACADE_GLASS,
    Material.FACADE_CONCRETE,
    Material.BARK,
    Material.SKIN,
    Material.SPOTS,
    Material.BANDS,
    Material.ROCK,
    Material.TILE,
    Material.PARQUET,
)


@dataclass(frozen=True)
class Frame:
    """One frame with its annotations.

    Attributes:
        rgb: uint8 (H, W, 3), sRGB.
        depth: float32 (H, W), metres along the optical axis, 0 where the sky is.
        instance: int32 (H, W), index into `World.instances`.
        normal: float32 (H, W, 3), unit vectors in world axes, 0 where the sky is.
        boxes: int32 (I, 6) per instance: x0, y0, x1, y1 inclusive, pixels, pixels nearer than 1 m.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instance: NDArray[np.int32]
    normal: NDArray[np.float32]
    boxes: NDArray[np.int32]


class Engine:
    """Draws one world.

    Frames are drawn in order from 0: the automatic exposure follows the frames before. A frame
    drawn out of order meters itself as if it were the first.

    Args:
        world: What is drawn.
        shape: Size, samples a pixel and rate of the frames.
        device: Warp's name of the device.
        by_triangle: Whether many threads share a triangle, as a GPU needs, or one thread draws a
            whole cluster, as suits a CPU; by default what suits the device. The keys are the same.

    Raises:
        ValueError: If `shape.num_samples` is neither 1 nor 5.
    """

    def __init__(
        self, world: World, shape: Shape, *, device: str = "cpu", by_triangle: bool | None = None
    ) -> None:
        import warp

        self._wp: Any = warp
        self.world, self.shape, self.device = world, shape, device
        if shape.num_samples not in (1, len(SAMPLE_OFFSETS)):
            raise ValueError(
                f"num_samples is {shape.num_samples!r}; the rasterizer knows 1 and "
                f"{len(SAMPLE_OFFSETS)}. Choose one of them."
            )
        self.by_triangle = (
            self._wp.get_device(device).is_cuda if by_triangle is None else by_triangle
        )
        self._last_frame = -2
        self._exposure = 1.0
        self._load_geometry()
        self._load_light()
        self._load_lamps()
        self._make_buffers()

    def render(self, frame_index: int) -> Frame:
        """Draw one frame with all annotations."""
        shape = self.shape
        width, height = shape.width_px, shape.height_px
        time_s = frame_index / shape.rate_fps
        camera = self._camera(frame_index)
        self.light.time_s = time_s
        self._pose(time_s)
        self._draw_moving_shadow(frame_index)
        self._launch(kernels.fill_keys, len(self.keys), self.keys)
        self._draw_keys(camera)
        self._launch(
            kernels.shade,
            width * height,
            self.scene,
            self.light,
            camera,
            self.keys,
            self.offsets,
            shape.num_samples,
            width,
            height,
            self.hdr,
            self.mirrors,
            self.guesses,
            self.depth,
            self.instance,
            self.normal,
        )
        self._launch(
            kernels.reflect,
            width * height,
            camera,
            width,
            height,
            self.hdr,
            self.mirrors,
            self.guesses,
            self.depth,
            self.mirrored,
        )
        self._finish(frame_index, time_s)
        self.boxes.assign(self._empty_boxes)
        self._launch(
            kernels.measure_boxes,
            width * height,
            self.instance,
            self.depth,
            width,
            self.boxes,
        )
        return Frame(
            self.rgb.numpy().reshape(height, width, 3).copy(),
            self.depth.numpy().reshape(height, width).copy(),
            self.instance.numpy().reshape(height, width).copy(),
            self.normal.numpy().reshape(height, width, 3).copy(),
            self.boxes.numpy().copy(),
        )

    def intrinsics(self) -> tuple[float, float, float, float]:
        """(fx, fy, cx, cy) in pixels; the pixel centre is at +0.5."""
        width, height = self.shape.width_px, self.shape.height_px
        focal = width / 2 / math.tan(math.radians(self.world.track.fov_deg) / 2)
        return focal, focal, width / 2, height / 2

    # -- set-up --------------------------------------------------------------------------------

    def _load_geometry(self) -> None:
        static = _sorted_by_place(self.world.static)
        moving = _sorted_by_part(self.world.moving)
        num_static = len(static.vertices)
        faces = np.concatenate([static.faces, moving.faces + np.int32(num_static)])
        material = np.concatenate([static.material, moving.material])
        flags = np.where(np.isin(material, [int(m) for m in ONE_SIDED]), 256, 0)
        instance = np.concatenate([static.instance, moving.instance])
        vertices = np.concatenate([static.vertices, moving.vertices])
        static_normals, static_flat = _normals(static)
        moving_normals, moving_flat = _normals(moving)

        scene = kernels.Scene()
        scene.faces = self._array(faces, self._wp.vec3i)
        scene.positions = self._array(vertices, kernels.vec3)
        scene.normals = self._array(np.concatenate([static_normals, moving_normals]), kernels.vec3)
        scene.uv = self._array(np.concatenate([static.uv, moving.uv]), kernels.vec2)
        scene.face_normal = self._array(np.concatenate([static_flat, moving_flat]), kernels.vec3)
        scene.material = self._array((material + flags).astype(np.int32), int)
        scene.instance = self._array(instance, int)
        scene.color = self._array(np.concatenate([static.color, moving.color]), kernels.vec3)
        scene.num_static = len(static.faces)
        self.scene = scene
        self._num_static_faces = len(static.faces)
        self._num_moving_faces = len(moving.faces)
        self._num_static_vertices = num_static
        self._num_moving_vertices = len(moving.vertices)
        self._moving_vertices = self._array(moving.vertices, kernels.vec3)
        self._moving_normals = self._array(moving_normals, kernels.vec3)
        self._moving_part = self._array(moving.part, int)
        self._casts = self._array(self._shadow_casters(material, instance), int)
        self._make_clusters(static, moving)
        self._load_signs()
        table = stream("render_clips", "noise").random((257, 257), dtype=np.float32)
        table[256], table[:, 256] = table[0], table[:, 0]
        scene.noise = self._array(table.ravel(), float)

    def _shadow_casters(self, material: NDArray[Any], instance: NDArray[Any]) -> NDArray[Any]:
        """1 for faces that cast shadows: not lamps, water, ceilings, nor the walls of a room."""
        hollow = {SemanticClass.CEILING, SemanticClass.SKY}
        if self.world.room is not None:
            hollow |= {SemanticClass.WALL, SemanticClass.BUILDING, SemanticClass.FLOOR}
        through = np.array([i.semantic in hollow for i in self.world.instances], bool)
        open_material = np.isin(material, [Material.LAMP, Material.WATER, Material.NEON])
        casts: NDArray[np.int32] = (~(open_material | through[instance])).astype(np.int32)
        return casts

    def _make_clusters(self, static: Mesh, moving: Mesh) -> None:
        spheres, spans = _clusters(static, _even_spans(len(static.faces)))
        moving_spans = _part_spans(moving)
        local, local_spans = _clusters(moving, moving_spans)
        first_of = moving.faces[local_spans[:, 0], 0] if len(local_spans) else np.zeros(0, int)
        parts = moving.part[first_of].astype(np.int32)
        self._moving_spheres = self._array(local, kernels.vec4)
        self._moving_sphere_part = self._array(parts, int)
        self._num_static_clusters = len(spheres)
        self.spheres = self._array(np.concatenate([spheres, local]), kernels.vec4)
        spans = np.concatenate([spans, local_spans + np.int32(len(static.faces))]).astype(np.int32)
        self.spans = self._array(spans, self._wp.vec2i)
        if self.by_triangle:
            cluster = np.repeat(np.arange(len(spans), dtype=np.int32), spans[:, 1] - spans[:, 0])
            self._cluster_of_face = self._array(cluster, int)
            self._queue = self._wp.empty((2, len(cluster)), dtype=int, device=self.device)
            self.queue_lengths = self._zeros(2, int)

    def _load_signs(self) -> None:
        levels = [self.world.signs.astype(np.float32)]
        if not levels[0].size:
            levels[0] = np.full((1, 8, 8, 3), 128.0, np.float32)
        for _ in range(3):
            last = levels[-1]
            h, w = max(last.shape[1] // 2, 1), max(last.shape[2] // 2, 1)
            cut = last[:, : h * 2, : w * 2] if min(last.shape[1:3]) > 1 else last
            small = (
                cut.reshape(len(cut), h, 2, w, 2, 3).mean((2, 4)) if cut.shape[1] == h * 2 else cut
            )
            levels.append(small)
        sizes, start = [], 0
        for level in levels:
            sizes.append((start, level.shape[2], level.shape[1]))
            start += level.size
        data = np.concatenate([level.ravel() for level in levels])
        self.scene.signs = self._array(np.rint(data).astype(np.uint8), self._wp.uint8)
        self.scene.sign_levels = self._array(np.array(sizes, np.int32), self._wp.vec3i)
        self.scene.num_signs = len(levels[0])

    def _load_light(self) -> None:
        air, room = self.world.air, self.world.room
        light = kernels.Light()
        sun = np.asarray(air.sun_direction, np.float64)
        sun = sun / np.linalg.norm(sun)
        light.sun, light.sun_color = kernels.vec3(*sun), kernels.vec3(*air.sun_color)
        light.zenith, light.horizon = (
            kernels.vec3(*air.zenith_color),
            kernels.vec3(*air.horizon_color),
        )
        light.fog_color, light.fog_per_m = kernels.vec3(*air.fog_color), air.fog_per_m
        light.lamp_level = air.lamp_level if room is None else 1.0
        light.wetness = air.wetness if room is None else 0.0
        light.clouds, light.snow = air.clouds, air.snow
        dark = _luminance(air.zenith_color)
        light.stars = float(np.clip((0.05 - dark) / 0.04, 0, 1) * (1 - air.clouds))
        light.indoor = int(room is not None)
        if room is not None:
            light.room_low, light.room_high = (
                kernels.vec3(*room.low),
                kernels.vec3(*room.high),
            )
            light.room_ambient = kernels.vec3(*room.ambient)
        self.light = light
        self._aim_key_light(sun)
        self._draw_static_shadow()
        self._draw_height_field()

    def _aim_key_light(self, sun: NDArray[np.float64]) -> None:
        """Choose where shadows come from: the sun, or a soft light from above without one."""
        air, room, light = self.world.air, self.world.room, self.light
        sky = 0.5 * (np.asarray(air.zenith_color) + np.asarray(air.horizon_color))
        if room is not None:
            key, color, soft = (
                np.array([0.22, 0.14, 1.0]),
                0.42 * np.asarray(room.ambient),
                0.28,
            )
        elif sun[2] > 0.02 and _luminance(air.sun_color) > 0.5 * _luminance(sky):
            key, color, soft = sun, np.asarray(air.sun_color), 0.03 + 0.25 * air.clouds
        else:
            color = 0.5 * sky + max(sun[2], 0.0) * np.asarray(air.sun_color)
            key, soft = np.array([0.1, 0.06, 1.0]), 0.5
        key = key / np.linalg.norm(key)
        side = np.array([1.0, 0.0, 0.0]) - key * key[0]
        if abs(key[0]) > 0.9:
            side = np.array([0.0, 1.0, 0.0]) - key * key[1]
        side /= np.linalg.norm(side)
        self._to_map = np.stack([side, np.cross(key, side), -key])
        light.key, light.key_color = kernels.vec3(*key), kernels.vec3(*color)
        light.to_map = kernels.mat33(*self._to_map.astype(np.float32).ravel())
        light.softness = float(soft)

    def _region(self) -> NDArray[np.float64]:
        """(2, 3): the box around the player's way in which light is worked out in detail."""
        places = self.world.track.camera_to_world[:, :3, 3]
        margin = np.array([REGION_MARGIN_M, REGION_MARGIN_M, 0.0])
        low, high = places.min(0) - margin, places.max(0) + margin
        vertices = self.world.static.vertices
        if len(vertices):
            low = np.maximum(low, vertices.min(0))
            high = np.minimum(high, vertices.max(0))
            low[2], high[2] = vertices[:, 2].min(), vertices[:, 2].max()
        return np.stack([low, np.maximum(high, low + 1.0)])

    def _draw_static_shadow(self) -> None:
        light, region = self.light, self._region()
        ground = region.copy()
        ground[1, 2] = min(ground[1, 2], ground[0, 2] + 20.0)
        corners = np.array(np.meshgrid(*ground.T, indexing="ij")).reshape(3, -1).T @ self._to_map.T
        low, high = corners.min(0), corners.max(0)
        scale = min(SHADOW_TEXELS / float((high - low)[:2].max()), 24.0)
        light.map_scale = scale
        light.map_width = int((high[0] - low[0]) * scale) + 1
        light.map_height = int((high[1] - low[1]) * scale) + 1
        light.map_low = kernels.vec3(*low)
        self.scene.shadow = self._depths(light.map_width * light.map_height)
        self._draw_depths(
            0,
            self._num_static_faces,
            light.to_map,
            light.map_low,
            scale,
            light.map_width,
            light.map_height,
            self.scene.shadow,
        )
        size = MOVING_SHADOW_TEXELS
        light.moving_size, light.moving_scale = size, MOVING_SHADOW_PER_M
        light.moving_on = int(self._num_moving_faces > 0)
        self.scene.moving_shadow = self._depths(size * size)

    def _draw_height_field(self) -> None:
        light, region = self.light, self._region()
        span = region[1] - region[0]
        width, height = (max(int(s * FIELD_PER_M), 2) for s in span[:2])
        light.field_low = kernels.vec2(float(region[0, 0]), float(region[0, 1]))
        light.field_scale, light.field_width, light.field_height = (
            FIELD_PER_M,
            width,
            height,
        )
        top = self._depths(width * height, -float(region[0, 2]))
        down = kernels.mat33(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
        low = kernels.vec3(float(region[0, 0]), float(region[0, 1]), 0.0)
        if light.indoor == 0:
            self._draw_depths(0, self._num_static_faces, down, low, FIELD_PER_M, width, height, top)
        heights = -top.numpy().reshape(height, width).astype(np.float64)
        near = _box_blur(_box_blur(heights, 1), 2)
        far = _box_blur(_box_blur(heights, 8), 12)
        both = np.concatenate([near.ravel(), far.ravel()]).astype(np.float32)
        self.scene.field = self._array(both, float)

    def _load_lamps(self) -> None:
        lamps = np.asarray(self.world.lamps, np.float32).reshape(-1, 7)
        light = self.light
        per_m = 1.0 / LIGHT_CELL_M
        if len(lamps):
            reach = lamps[:, 6:7]
            low = (lamps[:, :2] - reach).min(0)
            high = (lamps[:, :2] + reach).max(0)
        else:
            low = high = np.zeros(2, np.float32)
        num_x, num_y = (int(n) for n in np.minimum(np.ceil((high - low) * per_m), 256) + 1)
        cells = _strongest_lamps(lamps, low, num_x, num_y)
        light.cells_low = kernels.vec2(float(low[0]), float(low[1]))
        light.cells_per_m, light.cells_x, light.cells_y = per_m, num_x, num_y
        place = np.concatenate([lamps[:, :3], lamps[:, 6:7]], 1) if len(lamps) else np.zeros((1, 4))
        color = lamps[:, 3:6] if len(lamps) else np.zeros((1, 3))
        self.scene.lamp = self._array(place.astype(np.float32), kernels.vec4)
        self.scene.lamp_color = self._array(color.astype(np.float32), kernels.vec3)
        self.scene.cells = self._array(cells.ravel(), int)

    def _make_buffers(self) -> None:
        width, height = self.shape.width_px, self.shape.height_px
        n = width * height
        zeros, vec3 = self._zeros, kernels.vec3
        self.offsets = self._array(
            np.array(SAMPLE_OFFSETS[: self.shape.num_samples], np.float32), kernels.vec2
        )
        self.keys = zeros(n * self.shape.num_samples, self._wp.int64)
        self.hdr, self.mirrored, self.normal = (
            zeros(n, vec3),
            zeros(n, vec3),
            zeros(n, vec3),
        )
        self.mirrors, self.guesses = zeros(n, kernels.vec4), zeros(n, vec3)
        self.depth, self.instance = zeros(n, float), zeros(n, int)
        self.rgb = zeros(n * 3, self._wp.uint8)
        self._small = (max(width // 4, 2), max(height // 4, 2))
        self.bloom = (
            zeros(self._small[0] * self._small[1], vec3),
            zeros(self._small[0] * self._small[1], vec3),
        )
        self.meter = zeros(1, float)
        self.curve = self._array(_tone_curve(), self._wp.uint8)
        empty = np.zeros((len(self.world.instances), 6), np.int32)
        empty[:, :2] = np.iinfo(np.int32).max
        empty[:, 2:4] = -1
        self._empty_boxes = empty
        self.boxes = self._wp.array(empty, dtype=int, ndim=2, device=self.device)

    # -- one frame -----------------------------------------------------------------------------

    def _camera(self, frame_index: int) -> Any:
        matrix = self.world.track.camera_to_world[frame_index]
        camera = kernels.Camera()
        camera.rotation = kernels.mat33(*matrix[:3, :3].T.astype(np.float32).ravel())
        camera.centre = kernels.vec3(*matrix[:3, 3].astype(np.float32))
        camera.focal, _, camera.cx, camera.cy = self.intrinsics()
        return camera

    def _pose(self, time_s: float) -> None:
        if not self._num_moving_faces:
            return
        pose = self._wp.array(
            np.ascontiguousarray(self.world.pose(time_s), np.float32),
            dtype=float,
            ndim=3,
            device=self.device,
        )
        self._launch(
            kernels.pose_vertices,
            self._num_moving_vertices,
            self._moving_vertices,
            self._moving_normals,
            self._moving_part,
            pose,
            self._num_static_vertices,
            self.scene.positions,
            self.scene.normals,
        )
        self._launch(
            kernels.pose_clusters,
            len(self._moving_spheres),
            self._moving_spheres,
            self._moving_sphere_part,
            pose,
            self._num_static_clusters,
            self.spheres,
        )

    def _draw_keys(self, camera: Any) -> None:
        """Fill the visibility buffer, by triangle on a GPU and by cluster on a CPU."""
        shape = self.shape
        size = (camera, shape.width_px, shape.height_px)
        samples = (self.offsets, shape.num_samples, self.keys)
        if not self.by_triangle:
            self._launch(
                kernels.draw_clusters,
                len(self.spheres),
                self.scene,
                self.spheres,
                self.spans,
                *size,
                *samples,
            )
            return
        self.queue_lengths.zero_()
        self._launch(
            kernels.queue_triangles,
            len(self._cluster_of_face),
            self.scene,
            self.spheres,
            self._cluster_of_face,
            *size,
            shape.num_samples,
            self._queue,
            self.queue_lengths,
        )
        for which, shares in enumerate(kernels.QUEUE_SHARES):
            self._launch(
                kernels.draw_queue,
                shares,
                self.scene,
                self._queue,
                self.queue_lengths,
                which,
                *shares,
                *size,
                *samples,
            )

    def _draw_moving_shadow(self, frame_index: int) -> None:
        light = self.light
        if not light.moving_on:
            return
        matrix = self.world.track.camera_to_world[frame_index]
        span = light.moving_size / light.moving_scale
        ahead = matrix[:3, 3] + matrix[:3, 2] * [1.0, 1.0, 0.0] * (span * 0.38)
        low = self._to_map @ ahead - [span / 2, span / 2, 200.0]
        texel = 1.0 / light.moving_scale
        low[:2] = np.floor(low[:2] / texel) * texel
        light.moving_low = kernels.vec3(*low.astype(np.float32))
        self.scene.moving_shadow.fill_(NO_DEPTH)
        self._draw_depths(
            self._num_static_faces,
            self._num_moving_faces,
            light.to_map,
            light.moving_low,
            light.moving_scale,
            light.moving_size,
            light.moving_size,
            self.scene.moving_shadow,
        )

    def _finish(self, frame_index: int, time_s: float) -> None:
        width, height = self.shape.width_px, self.shape.height_px
        small_width, small_height = self._small
        exposure = self._expose(frame_index)
        first, second = self.bloom
        n = small_width * small_height
        threshold = BLOOM_ABOVE / max(exposure, 1e-3)
        self._launch(kernels.bloom_source, n, self.mirrored, width, small_width, threshold, first)
        self._launch(kernels.bloom_blur, n, first, small_width, small_height, 1, 0, second)
        self._launch(kernels.bloom_blur, n, second, small_width, small_height, 0, 1, first)
        air, outdoors = self.world.air, self.world.room is None
        matrix = self.world.track.camera_to_world[frame_index]
        heading = math.atan2(float(matrix[1, 2]), float(matrix[0, 2]))
        self._launch(
            kernels.finish,
            width * height,
            self.mirrored,
            first,
            width,
            height,
            small_width,
            small_height,
            exposure,
            BLOOM_GAIN,
            air.rain if outdoors else 0.0,
            air.snow if outdoors else 0.0,
            time_s,
            -heading,
            0.9 - 0.45 * air.lamp_level,
            self.depth,
            self.curve,
            self.rgb,
        )

    def _expose(self, frame_index: int) -> float:
        """The exposure of this frame: it follows the metered one slowly, as a camera does."""
        air = self.world.air
        self._launch(
            kernels.measure_light,
            1,
            self.mirrored,
            self.depth,
            self.shape.width_px,
            self.shape.height_px,
            self.meter,
        )
        mean = math.exp(float(self.meter.numpy()[0]))
        # Nights stay darker than days: the meter corrects only part of the difference.
        strength = 0.80 - 0.38 * air.lamp_level if self.world.room is None else 0.8
        wanted = air.exposure * (0.205 / max(mean, 0.004)) ** strength
        follows = frame_index == self._last_frame + 1
        self._exposure = self._exposure * 0.92 + wanted * 0.08 if follows else wanted
        self._last_frame = frame_index
        return self._exposure

    # -- Warp ----------------------------------------------------------------------------------

    def _array(self, values: NDArray[Any], dtype: Any) -> Any:
        return self._wp.array(np.ascontiguousarray(values), dtype=dtype, device=self.device)

    def _zeros(self, length: int, dtype: Any) -> Any:
        return self._wp.zeros(length, dtype=dtype, device=self.device)

    def _depths(self, length: int, value: float = NO_DEPTH) -> Any:
        return self._wp.full(length, value, dtype=float, device=self.device)

    def _launch(self, kernel: Any, dim: int | tuple[int, int], *inputs: Any) -> None:
        if dim:
            self._wp.launch(kernel, dim=dim, inputs=list(inputs), device=self.device)

    def _draw_depths(
        self,
        first: int,
        num_faces: int,
        to_map: Any,
        low: Any,
        scale: float,
        width: int,
        height: int,
        depths: Any,
    ) -> None:
        if not num_faces:
            return
        shared = (kernels.share_depths, (num_faces, kernels.DEPTH_SHARES))
        kernel, dim = shared if self.by_triangle else (kernels.draw_depths, num_faces)
        self._launch(
            kernel,
            dim,
            self.scene.faces,
            self.scene.positions,
            self._casts,
            first,
            to_map,
            low,
            scale,
            width,
            height,
            depths,
        )


def _luminance(color: Any) -> float:
    return float(np.dot(np.asarray(color, np.float64), [0.2126, 0.7152, 0.0722]))


def _tone_curve() -> NDArray[np.uint8]:
    """Display bytes of v, at index 4095 v / (v + 1): a toe, a straight middle, a long shoulder.

    The shoulder never ends: 2, 4 and 8 are three different whites, so that sunlit paint keeps the
    texture which a clipped one loses.
    """
    t = (np.arange(4096) + 0.5) / 4096
    v = t / (1.0 - t) * 0.82
    straight = _film(np.minimum(v, SHOULDER_FROM))
    step = 1e-4
    slope = float(_film(np.array(SHOULDER_FROM)) - _film(np.array(SHOULDER_FROM - step))) / step
    room = 1.0 - float(_film(np.array(SHOULDER_FROM)))
    over = slope * np.maximum(v - SHOULDER_FROM, 0.0) / room
    shown = straight + room * over / (1.0 + over)
    table: NDArray[np.uint8] = (255 * shown ** (1 / 2.2) + 0.5).astype(np.uint8)
    return table


def _film(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Toe and middle of the tone curve, linear in and out."""
    result: NDArray[np.float64] = v * (2.55 * v + 0.06) / (v * (2.40 * v + 0.62) + 0.16)
    return result


def _box_blur(field: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    for axis in (0, 1):
        pad = [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)]
        total = np.pad(field, pad, mode="edge").cumsum(axis)
        n = field.shape[axis]
        upper = np.take(total, range(2 * radius + 1, 2 * radius + 1 + n), axis)
        field = (upper - np.take(total, range(n), axis)) / (2 * radius + 1)
    return field


def _take_faces(mesh: Mesh, order: NDArray[Any]) -> Mesh:
    return Mesh(
        mesh.vertices,
        mesh.faces[order],
        mesh.uv,
        mesh.material[order],
        mesh.instance[order],
        mesh.color[order],
        mesh.part,
    )


def _sorted_by_place(mesh: Mesh) -> Mesh:
    """Neighbours next to each other, large faces apart, so that clusters are small."""
    if not mesh.num_faces:
        return mesh
    corners = mesh.vertices[mesh.faces]
    low, high = corners.min(1), corners.max(1)
    size = np.linalg.norm(high - low, axis=1)
    large = np.digitize(size, [2.0, 8.0, 32.0])
    cell = np.floor(((low + high) / 2 - mesh.vertices.min(0)) / 2.0).astype(np.int64)
    code = np.zeros(len(cell), np.int64)
    for bit in range(10):
        for axis in range(2):
            code |= ((cell[:, axis] >> bit) & 1) << (2 * bit + axis)
    return _take_faces(mesh, np.lexsort((cell[:, 2], code, large)))


def _sorted_by_part(mesh: Mesh) -> Mesh:
    if not mesh.num_faces:
        return mesh
    return _take_faces(mesh, np.argsort(mesh.part[mesh.faces[:, 0]], kind="stable"))


def _even_spans(num_faces: int) -> NDArray[np.int32]:
    first = np.arange(0, num_faces, CLUSTER_FACES, dtype=np.int32)
    return np.stack([first, np.minimum(first + CLUSTER_FACES, num_faces)], 1).astype(np.int32)


def _part_spans(mesh: Mesh) -> NDArray[np.int32]:
    """Spans of faces sorted by part, none across two parts."""
    if not mesh.num_faces:
        return np.zeros((0, 2), np.int32)
    part = mesh.part[mesh.faces[:, 0]]
    edges = np.flatnonzero(np.diff(part)) + 1
    bounds = [0, *edges.tolist(), len(part)]
    spans = [
        (first, min(first + CLUSTER_FACES, end))
        for start, end in itertools.pairwise(bounds)
        for first in range(start, end, CLUSTER_FACES)
    ]
    return np.array(spans, np.int32)


def _clusters(mesh: Mesh, spans: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Bounding spheres (C, 4) of spans of faces."""
    if not len(spans):
        return np.zeros((0, 4), np.float32), spans
    corners = mesh.vertices[mesh.faces]
    low = np.minimum.reduceat(corners.min(1), spans[:, 0])
    high = np.maximum.reduceat(corners.max(1), spans[:, 0])
    radius = np.linalg.norm(high - low, axis=1) / 2 + 0.01
    return np.concatenate([(low + high) / 2, radius[:, None]], 1).astype(np.float32), spans


def _normals(mesh: Mesh) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smooth normals per vertex and flat normals per face."""
    if not mesh.num_faces:
        none = np.zeros((0, 3), np.float32)
        return none, none
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = np.zeros((len(mesh.vertices), 3))
    for axis in range(3):
        for corner in range(3):
            smooth[:, axis] += np.bincount(
                mesh.faces[:, corner], across[:, axis], len(mesh.vertices)
            )
    return _unit(smooth), _unit(across)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-20)
    unit: NDArray[np.float32] = (vectors / length).astype(np.float32)
    return unit


def _strongest_lamps(
    lamps: NDArray[np.float32], low: NDArray[Any], num_x: int, num_y: int
) -> NDArray[np.int32]:
    """Per cell the lamps that light it most, strongest first, -1 where there are fewer."""
    count = int(kernels.LIGHTS_A_CELL)
    cells = np.full((num_y * num_x, count), -1, np.int32)
    if not len(lamps):
        return cells
    y, x = np.meshgrid(np.arange(num_y), np.arange(num_x), indexing="ij")
    centre = (np.stack([x.ravel(), y.ravel()], 1) + 0.5) * LIGHT_CELL_M + low
    gap = np.linalg.norm(centre[:, None] - lamps[None, :, :2], axis=2)
    near = np.maximum(gap - LIGHT_CELL_M * 0.71, 0.0)
    strength = lamps[:, 3:6].sum(1) / (gap**2 + lamps[:, 2] ** 2 * 0.25 + 1.0)
    strength = np.where(near < lamps[:, 6], strength, 0.0)
    order = np.argsort(-strength, axis=1, kind="stable")[:, :count]
    chosen = np.where(np.take_along_axis(strength, order, 1) > 0, order, -1)
    cells[:, : chosen.shape[1]] = chosen
    return cells
