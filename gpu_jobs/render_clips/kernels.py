"""Warp kernels: visibility, shadows, deferred procedural shading and the finish of a frame.

Visibility is a buffer of 64-bit keys, (nearness << 32 | triangle), filled by `atomic_min`: the order
of triangles cannot change it. Annotations come from the pixel centre (sample 0), colour from all
samples. Nothing here knows what a clip is; `engine.py` owns the arrays and the order of launches.
"""

# Warp's language: float(0.0) makes a variable that may change, int() truncates, `in` is unknown, and
# nested ifs keep an index from being read before it is known to be one.
# ruff: noqa: UP018, RUF046, SIM102, SIM109

import warp as wp

from worldloop.worlds.geometry import Material

wp.config.log_level = 40  # errors only: a job logs one line per clip
wp.config.enable_backward = False

vec2, vec3, vec4, mat33 = wp.vec2, wp.vec3, wp.vec4, wp.mat33

MATTE = wp.constant(int(Material.MATTE))
ASPHALT = wp.constant(int(Material.ASPHALT))
PAVING = wp.constant(int(Material.PAVING))
GRASS = wp.constant(int(Material.GRASS))
FACADE = wp.constant(int(Material.FACADE))
FOLIAGE = wp.constant(int(Material.FOLIAGE))
BARK = wp.constant(int(Material.BARK))
PAINT = wp.constant(int(Material.PAINT))
GLASS = wp.constant(int(Material.GLASS))
METAL = wp.constant(int(Material.METAL))
SIGN = wp.constant(int(Material.SIGN))
LAMP = wp.constant(int(Material.LAMP))
WATER = wp.constant(int(Material.WATER))
WOOD = wp.constant(int(Material.WOOD))
TILE = wp.constant(int(Material.TILE))
PICTURE = wp.constant(int(Material.PICTURE))
STRIPE = wp.constant(int(Material.STRIPE))
SKIN = wp.constant(int(Material.SKIN))
SPOTS = wp.constant(int(Material.SPOTS))
BANDS = wp.constant(int(Material.BANDS))
ROCK = wp.constant(int(Material.ROCK))
ROOF = wp.constant(int(Material.ROOF))
SAND = wp.constant(int(Material.SAND))
PARQUET = wp.constant(int(Material.PARQUET))
BRICK = wp.constant(int(Material.BRICK))
NEON = wp.constant(int(Material.NEON))
FACADE_BRICK = wp.constant(int(Material.FACADE_BRICK))
FACADE_STONE = wp.constant(int(Material.FACADE_STONE))
FACADE_GLASS = wp.constant(int(Material.FACADE_GLASS))
FACADE_CONCRETE = wp.constant(int(Material.FACADE_CONCRETE))

NEAR_M = wp.constant(0.05)
NO_HIT = wp.constant(wp.int64(0x7FFFFFFF00000000))
LIGHTS_A_CELL = wp.constant(8)
LAMP_SIZE_M2 = wp.constant(1.6)  # lanterns are no points: what is beside one is lit, not burnt
BLOCK_PX = wp.constant(16)  # pixels of a row that one thread of a GPU draws in one go
LARGE_BLOCKS = wp.constant(256)  # a triangle with more blocks, all samples together, is a large one
# How a GPU draws the queues of small and of large triangles: groups of threads, threads a group.
QUEUE_SHARES = ((8192, 32), (64, 4096))
DEPTH_SHARES = wp.constant(64)  # threads of a GPU that share the rows of a triangle in a map


@wp.struct
class Camera:
    """A pinhole at one moment."""

    rotation: mat33  # world to camera: x right, y down, z forward
    centre: vec3
    focal: float  # pixels
    cx: float
    cy: float


@wp.struct
class Light:
    """Air, room, lamps and where the maps of shadow and height lie."""

    sun: vec3
    sun_color: vec3
    zenith: vec3
    horizon: vec3
    fog_color: vec3
    fog_per_m: float
    lamp_level: float
    wetness: float
    clouds: float
    snow: float
    stars: float
    time_s: float
    indoor: int
    room_low: vec3
    room_high: vec3
    room_ambient: vec3
    key: vec3  # direction that the shadow maps look from
    key_color: vec3
    to_map: mat33
    map_low: vec3
    map_scale: float
    map_width: int
    map_height: int
    moving_low: vec3
    moving_scale: float
    moving_size: int
    moving_on: int
    softness: float
    field_low: vec2
    field_scale: float
    field_width: int
    field_height: int
    cells_low: vec2
    cells_per_m: float
    cells_x: int
    cells_y: int


@wp.struct
class Scene:
    """Geometry, tables and images of one world."""

    faces: wp.array(dtype=wp.vec3i)
    positions: wp.array(dtype=vec3)
    normals: wp.array(dtype=vec3)
    uv: wp.array(dtype=vec2)
    face_normal: wp.array(dtype=vec3)  # in the axes of the part; only compared with each other
    material: wp.array(dtype=int)
    instance: wp.array(dtype=int)
    color: wp.array(dtype=vec3)
    num_static: int
    noise: wp.array(dtype=float)
    signs: wp.array(dtype=wp.uint8)
    sign_levels: wp.array(dtype=wp.vec3i)  # offset, width, height of each mip level
    num_signs: int
    shadow: wp.array(dtype=float)
    moving_shadow: wp.array(dtype=float)
    field: wp.array(dtype=float)  # two blurred height fields
    lamp: wp.array(dtype=vec4)  # position and reach
    lamp_color: wp.array(dtype=vec3)
    cells: wp.array(dtype=int)


@wp.struct
class Triangle:
    """A projected triangle. Edge k is n_k . (x, y, 1) >= 0, 1 / z is s3 . (x, y, 1)."""

    index: int
    corners: wp.vec3i
    pa: vec3
    pb: vec3
    pc: vec3
    n0: vec3
    n1: vec3
    n2: vec3
    s3: vec3
    r0: float  # 1 / n0[0], 0 where that is too large
    r1: float
    r2: float
    x0: int  # first and last column and row of its box in the frame
    x1: int
    y0: int
    y1: int
    leafy: bool


@wp.struct
class Surface:
    """What a material gives at a point, before light falls on it."""

    albedo: vec3
    emission: vec3
    normal: vec3
    mirror: float
    shine: float  # strength of the highlight of the key light
    through: float  # light that passes from behind


# ---------------------------------------------------------------------------------------------
# noise and pattern


@wp.func
def hash3(a: int, b: int, c: int):
    """A number in [0, 1) from three integers."""
    h = (
        wp.uint32(a) * wp.uint32(374761393)
        + wp.uint32(b) * wp.uint32(668265263)
        + wp.uint32(c) * wp.uint32(1597334677)
    )
    h = (h ^ (h >> wp.uint32(13))) * wp.uint32(1274126177)
    h = h ^ (h >> wp.uint32(16))
    return float(h & wp.uint32(0xFFFFFF)) / 16777216.0


@wp.func
def smooth_noise(table: wp.array(dtype=float), x: float, y: float, seed: int):
    """Value noise in [0, 1) of period 256 from the table."""
    x0 = wp.floor(x)
    y0 = wp.floor(y)
    fx = x - x0
    fy = y - y0
    fx = fx * fx * (3.0 - 2.0 * fx)
    fy = fy * fy * (3.0 - 2.0 * fy)
    k = ((int(y0) + seed * 131) & 255) * 257 + ((int(x0) + seed * 57) & 255)
    low = table[k] + (table[k + 1] - table[k]) * fx
    high = table[k + 257] + (table[k + 258] - table[k + 257]) * fx
    return low + (high - low) * fy


@wp.func
def pulse(x: float, low: float, high: float, width: float):
    """Coverage of [low, high] in x of period 1 under a box filter of this width."""
    f = x - wp.floor(x)
    w = wp.max(width, 1.0e-4)
    part = wp.clamp((wp.min(f + w * 0.5, high) - wp.max(f - w * 0.5, low)) / w, 0.0, 1.0)
    return wp.lerp(part, high - low, wp.clamp(width * 1.6 - 0.6, 0.0, 1.0))


@wp.func
def step_at(x: float, edge: float, width: float):
    """A step from 0 to 1 at `edge`, as wide as the filter."""
    return wp.clamp((x - edge) / wp.max(width, 1.0e-4) + 0.5, 0.0, 1.0)


@wp.func
def mix(a: vec3, b: vec3, t: float):
    """From a to b."""
    return a + (b - a) * t


@wp.func
def grey(c: vec3):
    """Luminance of linear Rec. 709."""
    return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]


# ---------------------------------------------------------------------------------------------
# geometry: pose, visibility, shadow maps


@wp.kernel
def pose_vertices(
    local: wp.array(dtype=vec3),
    local_normal: wp.array(dtype=vec3),
    part: wp.array(dtype=int),
    pose: wp.array(dtype=float, ndim=3),
    first: int,
    positions: wp.array(dtype=vec3),
    normals: wp.array(dtype=vec3),
):
    """Moves vertices and normals with their rigid part."""
    i = wp.tid()
    k = part[i]
    p = local[i]
    n = local_normal[i]
    turn = mat33(
        pose[k, 0, 0],
        pose[k, 0, 1],
        pose[k, 0, 2],
        pose[k, 1, 0],
        pose[k, 1, 1],
        pose[k, 1, 2],
        pose[k, 2, 0],
        pose[k, 2, 1],
        pose[k, 2, 2],
    )
    positions[first + i] = turn * p + vec3(pose[k, 0, 3], pose[k, 1, 3], pose[k, 2, 3])
    normals[first + i] = turn * n


@wp.kernel
def pose_clusters(
    local: wp.array(dtype=vec4),
    part: wp.array(dtype=int),
    pose: wp.array(dtype=float, ndim=3),
    first: int,
    spheres: wp.array(dtype=vec4),
):
    """Moves bounding spheres with their rigid part."""
    i = wp.tid()
    k = part[i]
    s = local[i]
    x = pose[k, 0, 0] * s[0] + pose[k, 0, 1] * s[1] + pose[k, 0, 2] * s[2] + pose[k, 0, 3]
    y = pose[k, 1, 0] * s[0] + pose[k, 1, 1] * s[1] + pose[k, 1, 2] * s[2] + pose[k, 1, 3]
    z = pose[k, 2, 0] * s[0] + pose[k, 2, 1] * s[1] + pose[k, 2, 2] * s[2] + pose[k, 2, 3]
    spheres[first + i] = vec4(x, y, z, s[3])


@wp.func
def leaf_is_open(scene: Scene, p: vec3, n: vec3, eye: vec3, focal: float):
    """Whether one sees through the foliage here: ragged towards the outline, nearly full inside."""
    to_eye = eye - p
    distance = wp.length(to_eye)
    facing = wp.abs(wp.dot(wp.normalize(n), to_eye)) / distance
    footprint = distance / focal
    close = wp.clamp(1.5 - 0.25 * distance, 0.0, 1.0)  # beside the lens even a flat hedge is dense
    dense = 0.30 + 0.50 * wp.smoothstep(0.02, 0.85, facing + 0.5 * close)
    a = smooth_noise(scene.noise, p[0] * 2.3 + p[2] * 1.3, p[1] * 2.3 - p[2] * 1.9, 71)
    fine = wp.clamp(1.4 - footprint * 7.0, 0.0, 1.0)
    share = 0.74 * fine
    rest = a * (1.0 - share)
    if rest > dense or rest + share < dense:  # whatever the sprays are
        return rest > dense
    b = smooth_noise(scene.noise, p[0] * 8.0 - p[2] * 5.1, p[1] * 8.0 + p[2] * 6.3, 72)
    if footprint < 0.05:
        b = 0.5 * b + 0.5 * smooth_noise(
            scene.noise, p[0] * 21.0 + p[2] * 13.0, p[1] * 21.0 - p[2] * 17.0, 73
        )
    return rest + b * share > dense


@wp.func
def set_up_triangle(scene: Scene, t: int, camera: Camera, width: int, height: int):
    """Projects a triangle; one that is out of view, too thin or from behind gets no rows."""
    r = Triangle()
    r.index = t
    r.y0 = 0
    r.y1 = -1
    f = scene.faces[t]
    pa = scene.positions[f[0]]
    pb = scene.positions[f[1]]
    pc = scene.positions[f[2]]
    ca = camera.rotation * (pa - camera.centre)
    cb = camera.rotation * (pb - camera.centre)
    cc = camera.rotation * (pc - camera.centre)
    if ca[2] < NEAR_M and cb[2] < NEAR_M and cc[2] < NEAR_M:
        return r
    a = vec3(ca[0] * camera.focal, ca[1] * camera.focal, ca[2])
    b = vec3(cb[0] * camera.focal, cb[1] * camera.focal, cb[2])
    c = vec3(cc[0] * camera.focal, cc[1] * camera.focal, cc[2])
    hx = camera.cx
    hy = camera.cy
    if a[0] > hx * a[2] and b[0] > hx * b[2] and c[0] > hx * c[2]:
        return r
    if -a[0] > hx * a[2] and -b[0] > hx * b[2] and -c[0] > hx * c[2]:
        return r
    if a[1] > hy * a[2] and b[1] > hy * b[2] and c[1] > hy * c[2]:
        return r
    if -a[1] > hy * a[2] and -b[1] > hy * b[2] and -c[1] > hy * c[2]:
        return r
    n0 = wp.cross(b, c)
    n1 = wp.cross(c, a)
    n2 = wp.cross(a, b)
    det = wp.dot(a, n0)
    if wp.abs(det) < 1.0e-12:
        return r
    m = scene.material[t]
    if det > 0.0 and (m & 256) != 0:
        return r
    x0 = int(0)
    x1 = width - 1
    y0 = int(0)
    y1 = height - 1
    if ca[2] > NEAR_M and cb[2] > NEAR_M and cc[2] > NEAR_M:
        ia = 1.0 / a[2]
        ib = 1.0 / b[2]
        ic = 1.0 / c[2]
        low_x = wp.min(wp.min(a[0] * ia, b[0] * ib), c[0] * ic) + hx
        high_x = wp.max(wp.max(a[0] * ia, b[0] * ib), c[0] * ic) + hx
        low_y = wp.min(wp.min(a[1] * ia, b[1] * ib), c[1] * ic) + hy
        high_y = wp.max(wp.max(a[1] * ia, b[1] * ib), c[1] * ic) + hy
        x0 = wp.max(0, int(wp.floor(low_x)))
        x1 = wp.min(width - 1, int(wp.floor(high_x)))
        y0 = wp.max(0, int(wp.floor(low_y)))
        y1 = wp.min(height - 1, int(wp.floor(high_y)))
    inv = 1.0 / det
    n0 = n0 * inv
    n1 = n1 * inv
    n2 = n2 * inv
    r.corners = f
    r.pa = pa
    r.pb = pb
    r.pc = pc
    r.n0 = n0
    r.n1 = n1
    r.n2 = n2
    r.s3 = n0 + n1 + n2
    r.leafy = (m & 255) == FOLIAGE
    r0 = float(0.0)
    r1 = float(0.0)
    r2 = float(0.0)
    if wp.abs(n0[0]) > 1.0e-20:
        r0 = 1.0 / n0[0]
    if wp.abs(n1[0]) > 1.0e-20:
        r1 = 1.0 / n1[0]
    if wp.abs(n2[0]) > 1.0e-20:
        r2 = 1.0 / n2[0]
    r.r0 = r0
    r.r1 = r1
    r.r2 = r2
    r.x0 = x0
    r.x1 = x1
    r.y0 = y0
    r.y1 = y1
    return r


@wp.func
def draw_row(
    scene: Scene,
    r: Triangle,
    camera: Camera,
    offset: vec2,
    y: int,
    first_x: int,
    last_x: int,
    row: int,
    keys: wp.array(dtype=wp.int64),
):
    """Writes the keys of a triangle in the pixels first_x to last_x of one row of one sample.

    Offsets are eighths of a pixel, so first_x + dx - dx is first_x, and a row that is drawn in
    several parts gets the keys of one that is drawn at once.
    """
    dx = offset[0] - camera.cx
    n0 = r.n0
    n1 = r.n1
    n2 = r.n2
    s3 = r.s3
    f = r.corners
    base = wp.int64(r.index)
    leafy = r.leafy
    py = float(y) + offset[1] - camera.cy
    b0 = n0[1] * py + n0[2]
    b1 = n1[1] * py + n1[2]
    b2 = n2[1] * py + n2[2]
    xl = float(first_x) + dx
    xr = float(last_x) + dx
    if r.r0 > 0.0:
        xl = wp.max(xl, -b0 * r.r0)
    elif r.r0 < 0.0:
        xr = wp.min(xr, -b0 * r.r0)
    elif b0 < 0.0:
        xr = xl - 1.0
    if r.r1 > 0.0:
        xl = wp.max(xl, -b1 * r.r1)
    elif r.r1 < 0.0:
        xr = wp.min(xr, -b1 * r.r1)
    elif b1 < 0.0:
        xr = xl - 1.0
    if r.r2 > 0.0:
        xl = wp.max(xl, -b2 * r.r2)
    elif r.r2 < 0.0:
        xr = wp.min(xr, -b2 * r.r2)
    elif b2 < 0.0:
        xr = xl - 1.0
    if xl <= xr:
        bs = s3[1] * py + s3[2]
        for x in range(int(wp.ceil(xl - dx)), int(wp.floor(xr - dx)) + 1):
            px = float(x) + dx
            nearness = s3[0] * px + bs  # 1 / z
            if nearness > 0.0 and nearness < 20.0:
                key = (wp.int64(2139095040 - wp.cast(nearness, wp.int32)) << wp.int64(32)) | base
                if key < keys[row + x]:
                    shown = int(1)
                    if leafy:
                        w0 = (n0[0] * px + b0) / nearness
                        w1 = (n1[0] * px + b1) / nearness
                        w2 = 1.0 - w0 - w1
                        if leaf_is_open(
                            scene,
                            r.pa * w0 + r.pb * w1 + r.pc * w2,
                            scene.normals[f[0]] * w0
                            + scene.normals[f[1]] * w1
                            + scene.normals[f[2]] * w2,
                            camera.centre,
                            camera.focal,
                        ):
                            shown = int(0)
                    if shown == 1:
                        wp.atomic_min(keys, row + x, key)


@wp.func
def may_be_in_view(s: vec4, camera: Camera):
    """Whether a sphere (centre, radius) touches the pyramid that the camera sees."""
    r = s[3]
    p = camera.rotation * (vec3(s[0], s[1], s[2]) - camera.centre)
    if p[2] < -r:
        return False
    kx = camera.cx / camera.focal
    ky = camera.cy / camera.focal
    if wp.abs(p[0]) - kx * p[2] > r * wp.sqrt(1.0 + kx * kx):
        return False
    if wp.abs(p[1]) - ky * p[2] > r * wp.sqrt(1.0 + ky * ky):  # noqa: SIM103
        return False
    return True


@wp.kernel
def draw_clusters(
    scene: Scene,
    spheres: wp.array(dtype=vec4),
    spans: wp.array(dtype=wp.vec2i),
    camera: Camera,
    width: int,
    height: int,
    offsets: wp.array(dtype=vec2),
    num_samples: int,
    keys: wp.array(dtype=wp.int64),
):
    """Draws the clusters that may be in view, a thread each: the fast way on a CPU."""
    i = wp.tid()
    if not may_be_in_view(spheres[i], camera):
        return
    span = spans[i]
    for t in range(span[0], span[1]):
        r = set_up_triangle(scene, t, camera, width, height)
        for s in range(num_samples):
            offset = offsets[s]
            for y in range(r.y0, r.y1 + 1):
                row = (s * height + y) * width
                draw_row(scene, r, camera, offset, y, r.x0, r.x1, row, keys)


@wp.kernel
def fill_keys(keys: wp.array(dtype=wp.int64)):
    """Empties the visibility buffer."""
    keys[wp.tid()] = NO_HIT


@wp.func
def draw_depth_rows(
    faces: wp.array(dtype=wp.vec3i),
    positions: wp.array(dtype=vec3),
    casts: wp.array(dtype=int),
    t: int,
    to_map: mat33,
    low: vec3,
    scale: float,
    width: int,
    height: int,
    share: int,
    num_shares: int,
    depths: wp.array(dtype=float),
):
    """Draws one share of the rows of a triangle into a map of depths."""
    if casts[t] == 0:
        return
    f = faces[t]
    a = to_map * positions[f[0]] - low
    b = to_map * positions[f[1]] - low
    c = to_map * positions[f[2]] - low
    ax = a[0] * scale
    ay = a[1] * scale
    bx = b[0] * scale
    by = b[1] * scale
    cx = c[0] * scale
    cy = c[1] * scale
    x0 = wp.max(0, int(wp.floor(wp.min(wp.min(ax, bx), cx) - 0.5)))
    x1 = wp.min(width - 1, int(wp.floor(wp.max(wp.max(ax, bx), cx) + 0.5)))
    y0 = wp.max(0, int(wp.floor(wp.min(wp.min(ay, by), cy) - 0.5)))
    y1 = wp.min(height - 1, int(wp.floor(wp.max(wp.max(ay, by), cy) + 0.5)))
    if x1 < x0 or y1 < y0:
        return
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if wp.abs(area) < 1.0e-9:
        return
    ia = 1.0 / area
    # coverage is linear along a row: find the span instead of testing every texel
    g0 = -(cy - by) * ia
    g1 = -(ay - cy) * ia
    num_rows = y1 - y0 + 1
    for y in range(y0 + num_rows * share // num_shares, y0 + num_rows * (share + 1) // num_shares):
        py = float(y) + 0.5
        k0 = (bx * (cy - py) - (by - py) * cx) * ia
        k1 = (cx * (ay - py) - (cy - py) * ax) * ia
        left = float(x0) + 0.5
        right = float(x1) + 0.5
        # w0 = k0 + g0 x >= 0, w1 = k1 + g1 x >= 0, 1 - w0 - w1 >= 0
        if g0 > 0.0:
            left = wp.max(left, -k0 / g0)
        elif g0 < 0.0:
            right = wp.min(right, -k0 / g0)
        elif k0 < 0.0:
            right = left - 1.0
        if g1 > 0.0:
            left = wp.max(left, -k1 / g1)
        elif g1 < 0.0:
            right = wp.min(right, -k1 / g1)
        elif k1 < 0.0:
            right = left - 1.0
        g2 = -g0 - g1
        k2 = 1.0 - k0 - k1
        if g2 > 0.0:
            left = wp.max(left, -k2 / g2)
        elif g2 < 0.0:
            right = wp.min(right, -k2 / g2)
        elif k2 < 0.0:
            right = left - 1.0
        for x in range(int(wp.ceil(left - 0.5)), int(wp.floor(right - 0.5)) + 1):
            px = float(x) + 0.5
            w0 = k0 + g0 * px
            w1 = k1 + g1 * px
            z = w0 * a[2] + w1 * b[2] + (1.0 - w0 - w1) * c[2]
            i = y * width + x
            if z < depths[i]:
                wp.atomic_min(depths, i, z)


@wp.kernel
def draw_depths(
    faces: wp.array(dtype=wp.vec3i),
    positions: wp.array(dtype=vec3),
    casts: wp.array(dtype=int),
    first: int,
    to_map: mat33,
    low: vec3,
    scale: float,
    width: int,
    height: int,
    depths: wp.array(dtype=float),
):
    """Smallest depth along the third axis of `to_map`, orthographic; a thread a triangle."""
    t = wp.tid() + first
    draw_depth_rows(faces, positions, casts, t, to_map, low, scale, width, height, 0, 1, depths)


# ---------------------------------------------------------------------------------------------
# the same on a GPU, where one thread a cluster would leave all others waiting for the one with the
# largest triangles; each kernel is a module of its own, so that a CPU never compiles it


@wp.func
def blocks_a_row(r: Triangle):
    """In how many blocks of `BLOCK_PX` pixels the rows of a triangle are cut."""
    return (r.x1 - r.x0) // BLOCK_PX + 1


@wp.kernel(module="unique")
def queue_triangles(
    scene: Scene,
    spheres: wp.array(dtype=vec4),
    cluster: wp.array(dtype=int),
    camera: Camera,
    width: int,
    height: int,
    num_samples: int,
    queue: wp.array(dtype=int, ndim=2),
    lengths: wp.array(dtype=int),
):
    """Puts the triangles in view in the queue of the small ones or in that of the large ones."""
    t = wp.tid()
    if not may_be_in_view(spheres[cluster[t]], camera):
        return
    r = set_up_triangle(scene, t, camera, width, height)
    if r.x1 < r.x0 or r.y1 < r.y0:
        return
    which = int(0)
    if blocks_a_row(r) * (r.y1 - r.y0 + 1) * num_samples > LARGE_BLOCKS:
        which = int(1)
    queue[which, wp.atomic_add(lengths, which, 1)] = t


@wp.kernel(module="unique")
def draw_queue(
    scene: Scene,
    queue: wp.array(dtype=int, ndim=2),
    lengths: wp.array(dtype=int),
    which: int,
    num_groups: int,
    num_shares: int,
    camera: Camera,
    width: int,
    height: int,
    offsets: wp.array(dtype=vec2),
    num_samples: int,
    keys: wp.array(dtype=wp.int64),
):
    """Draws one queue: a group of threads takes a triangle and shares its blocks of pixels."""
    group, share = wp.tid()
    for i in range(group, lengths[which], num_groups):
        r = set_up_triangle(scene, queue[which, i], camera, width, height)
        across = blocks_a_row(r)
        down = r.y1 - r.y0 + 1
        for k in range(share, across * down * num_samples, num_shares):
            x = r.x0 + (k % across) * BLOCK_PX
            y = r.y0 + (k // across) % down
            s = k // (across * down)
            row = (s * height + y) * width
            last_x = wp.min(x + BLOCK_PX - 1, r.x1)
            draw_row(scene, r, camera, offsets[s], y, x, last_x, row, keys)


@wp.kernel(module="unique")
def share_depths(
    faces: wp.array(dtype=wp.vec3i),
    positions: wp.array(dtype=vec3),
    casts: wp.array(dtype=int),
    first: int,
    to_map: mat33,
    low: vec3,
    scale: float,
    width: int,
    height: int,
    depths: wp.array(dtype=float),
):
    """As `draw_depths`, with `DEPTH_SHARES` threads a triangle."""
    face, share = wp.tid()
    draw_depth_rows(
        faces,
        positions,
        casts,
        face + first,
        to_map,
        low,
        scale,
        width,
        height,
        share,
        DEPTH_SHARES,
        depths,
    )


# ---------------------------------------------------------------------------------------------
# sky and surroundings


@wp.func
def sky_color(d: vec3, light: Light, table: wp.array(dtype=float), disc: int):
    """Sky with clouds, sun glow and, if `disc`, the sun or moon itself and the stars."""
    up = wp.max(d[2], 0.0)
    low = 1.0 - up
    low = low * low
    low = low * low
    c = mix(light.zenith, light.horizon, low)
    m = wp.max(wp.dot(d, light.sun), 0.0)
    m2 = m * m
    m8 = m2 * m2
    m8 = m8 * m8
    m64 = m8 * m8
    m64 = m64 * m64
    m64 = m64 * m64
    clear = 1.0 - 0.9 * light.clouds
    glow = (0.07 * m8 * (0.3 + 0.7 * low) + 0.16 * m64) * clear
    c = c + light.sun_color * glow
    if light.stars > 0.01 and d[2] > 0.0 and disc == 1:
        sx = d[0] / (0.35 + d[2]) * 90.0
        sy = d[1] / (0.35 + d[2]) * 90.0
        star = hash3(int(wp.floor(sx)), int(wp.floor(sy)), 5)
        if star > 0.985:
            fx = sx - wp.floor(sx) - 0.5
            fy = sy - wp.floor(sy) - 0.5
            c = c + vec3(0.9, 0.95, 1.0) * (
                light.stars
                * 0.5
                * (star - 0.985)
                / 0.015
                * wp.clamp(1.0 - 5.0 * (fx * fx + fy * fy), 0.0, 1.0)
            )
    if disc == 1:
        edge = wp.smoothstep(0.99930, 0.99965, m)
        c = c + light.sun_color * (edge * clear * wp.where(light.stars > 0.01, 4.0, 3.0))
    if d[2] > 0.015:
        k = 1.5 / (d[2] + 0.14)
        u = d[0] * k + light.time_s * 0.008
        v = d[1] * k
        n = (
            0.52 * smooth_noise(table, u, v, 1)
            + 0.27 * smooth_noise(table, u * 2.1, v * 2.1, 2)
            + 0.14 * smooth_noise(table, u * 4.3, v * 4.3, 3)
            + 0.07 * smooth_noise(table, u * 9.1, v * 9.1, 4)
        )
        edge_low = 0.66 - 0.52 * light.clouds
        cover = wp.smoothstep(edge_low, edge_low + 0.24, n) * wp.smoothstep(0.015, 0.16, d[2])
        thick = wp.smoothstep(edge_low + 0.05, edge_low + 0.5, n)
        bright = light.horizon * 0.75 + light.sun_color * (0.16 + 0.22 * m8)
        dark = light.horizon * 0.55 + light.zenith * 0.25 + light.sun_color * 0.02
        c = mix(c, mix(bright, dark, thick), cover * (0.78 - 0.25 * light.stars))
    return c


@wp.func
def surroundings(
    p: vec3, d: vec3, light: Light, table: wp.array(dtype=float), closed: float, windows: float
):
    """What a mirror shows where the screen does not know: room walls, or skyline and sky."""
    if light.indoor == 1:
        t = float(1.0e6)
        axis = int(0)
        for k in range(3):
            if wp.abs(d[k]) > 1.0e-4:
                wall = light.room_low[k]
                if d[k] > 0.0:
                    wall = light.room_high[k]
                tk = (wall - p[k]) / d[k]
                if tk > 0.0 and tk < t:
                    t = tk
                    axis = k
        tone = float(0.62)
        if axis == 2:
            tone = 0.95
            if d[2] < 0.0:
                tone = 0.4
        h = p + d * t
        tone = tone * (0.9 + 0.2 * smooth_noise(table, (h[0] + h[1]) * 0.6, h[2] * 0.4, 8))
        return light.room_ambient * tone
    c = sky_color(d, light, table, 0)
    heading = wp.atan2(d[1], d[0]) * 9.0
    skyline = 0.05 + closed * (0.16 + 0.30 * smooth_noise(table, heading, 0.5, 9))
    ambient = mix(light.zenith, light.horizon, 0.5)
    block = ambient * 0.22 + light.sun_color * 0.03
    lit = wp.smoothstep(0.55, 0.8, smooth_noise(table, heading * 5.0, d[2] * 40.0, 10))
    lit = wp.lerp(0.12, lit, windows)
    block = block + vec3(1.0, 0.68, 0.36) * (0.45 * light.lamp_level * lit)
    return mix(block, c, wp.smoothstep(skyline - 0.02, skyline + 0.03, d[2]))


# ---------------------------------------------------------------------------------------------
# materials


@wp.func
def plain(albedo: vec3, n: vec3):
    """A matte surface."""
    s = Surface()
    s.albedo = albedo
    s.emission = vec3(0.0, 0.0, 0.0)
    s.normal = n
    s.mirror = 0.0
    s.shine = 0.0
    s.through = 0.0
    return s


@wp.func
def lit_room(u: float, v: float, warmth: float):
    """Light of a room behind a window: brighter above, with a lamp-coloured cast."""
    warm = mix(vec3(1.0, 0.66, 0.32), vec3(0.86, 0.93, 1.0), wp.smoothstep(0.78, 0.84, warmth))
    return warm * wp.max(0.55 + 0.65 * v - 0.5 * wp.abs(u - 0.5), 0.05)


@wp.func
def masonry(
    wall: vec3,
    mortar: vec3,
    u: float,
    v: float,
    long: float,
    high: float,
    joint: float,
    contrast: float,
    fw: float,
    seed: int,
):
    """Courses of blocks, long x high metres, in mortar; from afar only their mean remains."""
    row = v / high
    course = wp.floor(row)
    column = u / long + 0.5 * course
    lines = wp.max(
        pulse(row, 0.0, joint / high, fw / high), pulse(column, 0.0, joint / long, fw / long)
    )
    fade = wp.clamp(1.35 - fw / high, 0.0, 1.0)
    tone = hash3(int(course), int(wp.floor(column)), seed) - 0.5
    return mix(wall * (1.0 + contrast * fade * tone), mortar, lines * 0.62)


@wp.func
def cladding(
    m: int, u: float, v: float, bay: float, storey: float, seed: int, color: vec3, fw: float
):
    """The wall between the windows of a facade, by its material."""
    wall = color
    if m == FACADE_BRICK:
        mortar = mix(color, vec3(0.62, 0.58, 0.52), 0.75)
        # fired in batches: what is left to see from across a wide street
        batch = hash3(
            int(wp.floor(v / 0.48)), int(wp.floor(u / 1.3 + 0.37 * wp.floor(v / 0.48))), seed
        )
        wall = wall * (0.94 + 0.16 * (batch - 0.5) * wp.clamp(1.3 - fw * 2.0, 0.0, 1.0))
        wall = masonry(wall, mortar, u, v, 0.40, 0.16, 0.028, 0.55, fw, seed)
    elif m == FACADE_STONE:
        wall = masonry(wall, color * 0.45, u, v, 1.15, 0.56, 0.045, 0.34, fw, seed)
    elif m == FACADE_GLASS:
        wall = color * 0.55
    elif m == FACADE_CONCRETE:
        seam = wp.max(
            pulse(u / (2.0 * bay), 0.0, 0.016, 0.5 * fw / bay),
            pulse((v - 4.0) / storey, 0.0, 0.022, fw / storey),
        )
        wall = wall * (1.0 - 0.5 * seam)
    return wall


@wp.func
def facade_surface(
    m: int,
    u: float,
    v: float,
    seed: int,
    color: vec3,
    n: vec3,
    fw: float,
    light: Light,
    table: wp.array(dtype=float),
):
    """Storeys of windows over shops or a plinth; u along, v above the ground, in metres."""
    s = plain(color, n)
    bay = 2.5 + 1.5 * hash3(seed, 1, 7)
    storey = 3.1 + 0.5 * hash3(seed, 6, 2)
    if m == FACADE_GLASS:
        bay = 1.5 + 0.5 * hash3(seed, 1, 7)
    wall = cladding(m, u, v, bay, storey, seed, color, fw)
    wall = wall * (0.84 + 0.24 * smooth_noise(table, u * 0.35, v * 0.13, seed & 63))
    band = pulse(v / storey - 4.0 / storey, 0.0, 0.06, fw / storey)
    if m == FACADE:
        wall = wall * (1.0 + 0.18 * band)
    if v < 4.0:
        shop = hash3(seed, 31, 4)
        if shop < 0.68:
            unit = u / 3.6 + 0.1
            unit_id = int(wp.floor(unit))
            glass = (
                pulse(unit, 0.07, 0.93, fw / 3.6)
                * step_at(v, 0.5, fw)
                * (1.0 - step_at(v, 2.9, fw))
            )
            bar = pulse(u / 1.2, 0.0, 0.05, fw / 1.2)
            clear_glass = glass * (1.0 - bar)
            row = v / 0.52
            goods_u = u / 0.21
            goods_id = int(wp.floor(goods_u))
            row_id = int(wp.floor(row))
            tall = 0.35 + 0.5 * hash3(goods_id, row_id, seed)
            goods = (1.0 - step_at(row - wp.floor(row), tall, fw / 0.52)) * pulse(
                goods_u, 0.08, 0.92, fw / 0.21
            )
            crisp = wp.clamp(1.3 - fw * 5.0, 0.0, 1.0)
            goods = wp.lerp(0.5, goods, crisp) * wp.step(hash3(unit_id, seed, 14) - 0.8)
            ware = vec3(
                0.04 + 0.42 * hash3(goods_id, row_id, seed + 1),
                0.04 + 0.32 * hash3(goods_id, row_id, seed + 2),
                0.03 + 0.34 * hash3(goods_id, row_id, seed + 3),
            )
            inside = mix(
                vec3(0.10, 0.09, 0.08) * (0.55 + 0.25 * v),
                mix(vec3(0.20, 0.165, 0.15), ware, crisp),
                goods,
            )
            depth_of_room = 0.70 + 0.5 * smooth_noise(table, u * 0.7, v * 0.5, unit_id & 63)
            inside = inside * depth_of_room
            tint = mix(
                vec3(1.0, 0.80, 0.52),
                vec3(0.9, 0.96, 1.0),
                wp.smoothstep(0.55, 0.6, hash3(unit_id, seed, 12)),
            )
            fascia = step_at(v, 3.0, fw) * (1.0 - step_at(v, 3.65, fw))
            trim = vec3(
                hash3(seed, unit_id, 21),
                hash3(seed, unit_id, 22),
                hash3(seed, unit_id, 23),
            )
            trim = mix(trim * 0.45, vec3(0.05, 0.06, 0.06), 0.35)
            wall = mix(wall * 0.8, trim, wp.max(fascia, glass * bar))
            s.albedo = mix(wall, inside * 0.55, clear_glass)
            s.mirror = clear_glass * 0.35
            s.shine = clear_glass * 0.3
            open_hours = 0.35 + 0.9 * hash3(unit_id, seed, 11)
            pale = grey(inside)
            lit = mix(inside, vec3(pale, pale, pale), 0.55) + vec3(0.03, 0.03, 0.03)
            s.emission = wp.cw_mul(lit, tint) * (
                clear_glass * open_hours * (0.14 + 1.7 * light.lamp_level)
            )
        else:
            door = pulse(u / 9.0 + 0.3, 0.45, 0.62, fw / 9.0) * (1.0 - step_at(v, 2.6, fw))
            window = (
                pulse(u / bay, 0.25, 0.75, fw / bay)
                * step_at(v, 1.0, fw)
                * (1.0 - step_at(v, 3.0, fw))
                * (1.0 - door)
            )
            base = 1.0 - 0.35 * (1.0 - step_at(v, 0.8, fw))
            s.albedo = mix(
                mix(wall * base, vec3(0.13, 0.07, 0.04), door),
                vec3(0.04, 0.045, 0.05),
                window,
            )
            s.mirror = window * 0.4
            s.emission = lit_room(0.5, 0.5, hash3(seed, 3, 3)) * (
                window
                * light.lamp_level
                * 0.5
                * wp.step(0.45 - hash3(int(wp.floor(u / bay)), seed, 5))
            )
    else:
        uu = u / bay
        vv = (v - 4.0) / storey
        fu = fw / bay
        fv = fw / storey
        x0 = float(0.25)
        x1 = float(0.75)
        y0 = float(0.24)
        y1 = float(0.80)
        if m == FACADE_GLASS:
            x0 = 0.045
            x1 = 0.955
            y0 = 0.20
            y1 = 0.955
        elif m == FACADE_CONCRETE:
            x0 = 0.06
            x1 = 0.94
            y0 = 0.34
            y1 = 0.82
        iu = int(wp.floor(uu))
        iv = int(wp.floor(vv))
        rnd = hash3(iu, iv, seed)
        frame = pulse(uu, x0 - 0.035, x1 + 0.035, fu) * pulse(vv, y0 - 0.04, y1 + 0.03, fv)
        window = pulse(uu, x0, x1, fu) * pulse(vv, y0, y1, fv)
        bar = wp.max(pulse(uu * 2.0, 0.0, 0.05, fu * 2.0), pulse(vv - 0.15, 0.42, 0.455, fv))
        sill = pulse(vv, y0 - 0.08, y0 - 0.035, fv) * pulse(uu, x0 - 0.07, x1 + 0.07, fu)
        lu = uu - wp.floor(uu)
        lv = vv - wp.floor(vv)
        blind_edge = y1 - (y1 - y0) * wp.max(hash3(iu, iv, seed + 5) * 1.7 - 0.9, 0.0)
        blind = step_at(lv, blind_edge, fv)
        inside = mix(vec3(0.03, 0.036, 0.042), vec3(0.50, 0.48, 0.42), blind * 0.75)
        shade_top = 1.0 - 0.35 * step_at(lv, y1 - 0.06, fv)
        wall = mix(wall, color * 1.2 + vec3(0.06, 0.06, 0.06), sill)
        trim_color = mix(vec3(0.72, 0.70, 0.66), color * 0.4, hash3(seed, 4, 4))
        if m == FACADE_BRICK:
            trim_color = vec3(0.66, 0.62, 0.55)
            lintel = pulse(vv, y1 + 0.01, y1 + 0.085, fv) * pulse(uu, x0 - 0.07, x1 + 0.07, fu)
            wall = mix(wall, trim_color * 0.9, lintel)
        elif m == FACADE_GLASS:
            trim_color = color * 0.3 + vec3(0.08, 0.085, 0.09)
        wall = mix(wall, trim_color, frame)
        clear_pane = window * (1.0 - bar * 0.9)
        s.albedo = mix(wall, inside * shade_top, clear_pane)
        s.mirror = clear_pane * (1.0 - blind * 0.6)
        s.shine = 0.35 * clear_pane
        busy = hash3(seed, 8, 8) * 0.35
        is_on = wp.step(0.60 - rnd - busy)
        pane_u = (lu - x0) / (x1 - x0)
        pane_v = (lv - y0) / (y1 - y0)
        s.emission = lit_room(pane_u, pane_v, hash3(iu, iv, seed + 2)) * (
            clear_pane * is_on * light.lamp_level * (0.45 + 0.75 * rnd) * (1.0 - 0.45 * blind)
        )
    return s


@wp.func
def painting(u: float, v: float, seed: int, fw: float, table: wp.array(dtype=float)):
    """A picture of its own for every seed: u to the right, v down, both in [0, 1]."""
    kind = int(hash3(seed, 1, 1) * 6.0)
    q = seed & 127
    hue = vec3(hash3(seed, 2, 1), hash3(seed, 2, 2), hash3(seed, 2, 3))
    other = vec3(hash3(seed, 3, 1), hash3(seed, 3, 2), hash3(seed, 3, 3))
    brush = 0.85 + 0.3 * smooth_noise(table, u * 40.0, v * 55.0, q)
    c = vec3(0.5, 0.5, 0.5)
    if kind == 0 or kind == 5:
        line = 0.42 + 0.22 * hash3(seed, 4, 1)
        dawn = mix(vec3(0.85, 0.52, 0.28), vec3(0.75, 0.82, 0.88), hash3(seed, 4, 2))
        c = mix(
            mix(vec3(0.18, 0.34, 0.62), vec3(0.30, 0.26, 0.42), hue[0]),
            dawn,
            wp.clamp(v / line, 0.0, 1.0),
        )
        puff = (
            smooth_noise(table, u * 4.0, v * 9.0, q) * 0.6
            + smooth_noise(table, u * 9.0, v * 19.0, q + 3) * 0.4
        )
        c = mix(c, vec3(0.92, 0.88, 0.82), wp.smoothstep(0.52, 0.75, puff) * 0.8)
        sun_x = u - hash3(seed, 4, 3)
        sun_y = v - line * 0.7
        c = mix(
            c,
            vec3(1.0, 0.88, 0.55),
            wp.smoothstep(0.055, 0.045, wp.sqrt(sun_x * sun_x * 1.6 + sun_y * sun_y)),
        )
        if kind == 0:
            for k in range(3):
                ridge = (
                    line
                    + 0.12 * float(k)
                    + 0.16
                    * (0.5 - smooth_noise(table, u * (2.2 + 2.0 * float(k)), float(k) * 7.0, q + k))
                )
                land = mix(
                    vec3(0.20, 0.30, 0.38),
                    vec3(0.16 + 0.2 * other[0], 0.26, 0.07),
                    float(k) * 0.5,
                )
                c = mix(
                    c,
                    land * (0.7 + 0.6 * smooth_noise(table, u * 22.0, v * 30.0, q + k)),
                    step_at(v, ridge, 0.01),
                )
        else:
            sea = mix(
                vec3(0.10, 0.27, 0.36),
                vec3(0.05, 0.12, 0.24),
                wp.clamp((v - line) * 2.0, 0.0, 1.0),
            )
            sea = mix(
                sea,
                dawn,
                wp.smoothstep(0.62, 0.85, smooth_noise(table, u * 7.0, v * 60.0, q)) * 0.6,
            )
            c = mix(c, sea, step_at(v, line, 0.008))
            bx = u - 0.2 - 0.6 * hash3(seed, 5, 1)
            hull = (
                step_at(v, line + 0.03, 0.008)
                * (1.0 - step_at(v, line + 0.075, 0.008))
                * step_at(0.085 - wp.abs(bx), 0.0, 0.01)
            )
            sail = (
                step_at(v, line - 0.19, 0.008)
                * (1.0 - step_at(v, line + 0.02, 0.008))
                * step_at((v - line + 0.2) * 0.42 - wp.abs(bx), 0.0, 0.012)
            )
            c = mix(mix(c, vec3(0.90, 0.86, 0.76), sail), vec3(0.16, 0.07, 0.04), hull)
    elif kind == 1:
        c = mix(hue * 0.75, vec3(0.6, 0.2, 0.1), 0.2)
        edge_x = step_at(0.43 - wp.abs(u - 0.5), 0.0, 0.03)
        split = 0.35 + 0.3 * hash3(seed, 4, 1)
        upper = edge_x * step_at(v, 0.07, 0.04) * (1.0 - step_at(v, split - 0.02, 0.04))
        lower = edge_x * step_at(v, split + 0.03, 0.04) * (1.0 - step_at(v, 0.93, 0.04))
        c = mix(
            mix(c, other * 0.85, upper * 0.9),
            vec3(other[2], other[0], other[1]) * 0.8,
            lower * 0.9,
        )
    elif kind == 2:
        c = mix(vec3(0.16, 0.12, 0.08), hue * 0.3, 0.5) * (
            1.3 - 0.9 * wp.length(vec2(u - 0.4, v - 0.35))
        )
        coat = mix(vec3(0.08, 0.07, 0.08), other * 0.55, 0.6)
        sx = u - 0.5
        shoulder = 0.70 + 1.6 * sx * sx
        c = mix(
            c,
            coat * (0.75 + 0.5 * smooth_noise(table, u * 9.0, v * 6.0, q)),
            step_at(v, shoulder, 0.02),
        )
        c = mix(
            c,
            vec3(0.85, 0.82, 0.74),
            step_at(v, shoulder + 0.01, 0.02)
            * step_at(0.06 - wp.abs(sx) - (v - shoulder) * 0.2, 0.0, 0.02),
        )
        face = mix(vec3(0.30, 0.17, 0.10), vec3(0.80, 0.58, 0.44), hash3(seed, 4, 4))
        hair = mix(vec3(0.05, 0.04, 0.03), vec3(0.42, 0.26, 0.12), hash3(seed, 4, 5))
        hy = (v - 0.42) / 0.27
        hx = sx / 0.20
        c = mix(c, hair, step_at(1.0 - wp.sqrt(hx * hx + hy * hy), 0.0, 0.06))
        c = mix(
            c,
            face * 0.8,
            step_at(0.07 - wp.abs(sx), 0.0, 0.02)
            * step_at(v, 0.55, 0.02)
            * (1.0 - step_at(v, 0.74, 0.03)),
        )
        fx = sx / 0.145
        fy = (v - 0.455) / 0.20
        c = mix(
            c,
            face * (1.05 + 0.35 * (-sx) * 4.0),
            step_at(1.0 - wp.sqrt(fx * fx + fy * fy), 0.0, 0.08),
        )
        ex = wp.abs(sx) - 0.058
        c = mix(
            c,
            vec3(0.06, 0.04, 0.03),
            step_at(0.020 - wp.sqrt(ex * ex + 2.5 * (v - 0.435) * (v - 0.435)), 0.0, 0.01),
        )
        c = mix(
            c,
            vec3(0.50, 0.16, 0.13),
            step_at(0.042 - wp.abs(sx), 0.0, 0.02) * step_at(0.012 - wp.abs(v - 0.565), 0.0, 0.01),
        )
    elif kind == 3:
        gx = u * 3.0 + 0.6 * hash3(int(v * 3.0), seed, 5)
        gy = v * 3.0 + 0.6 * hash3(int(gx), seed, 6)
        pick = hash3(int(gx), int(gy), seed)
        c = vec3(0.88, 0.86, 0.80)
        if pick > 0.82:
            c = vec3(0.70, 0.06, 0.05)
        elif pick > 0.66:
            c = vec3(0.06, 0.12, 0.45)
        elif pick > 0.52:
            c = vec3(0.88, 0.66, 0.07)
        bar = wp.max(pulse(gx, 0.0, 0.07, fw * 3.0), pulse(gy, 0.0, 0.07, fw * 3.0))
        c = mix(c, vec3(0.03, 0.03, 0.03), bar)
    else:
        c = mix(vec3(0.24, 0.19, 0.14), hue * 0.45, 0.6) * (1.15 - 0.6 * v)
        c = mix(c, vec3(0.34, 0.22, 0.13), step_at(v, 0.76, 0.015))
        vx = wp.abs(u - 0.5)
        jar = (
            step_at(0.11 - 0.10 * wp.abs(v - 0.72) / 0.18 - vx + 0.04, 0.0, 0.02)
            * step_at(v, 0.56, 0.02)
            * (1.0 - step_at(v, 0.86, 0.02))
        )
        for k in range(11):
            px = u - 0.5 - 0.52 * (hash3(seed, k, 7) - 0.5)
            py = v - 0.36 - 0.40 * (hash3(seed, k, 8) - 0.5)
            radius = 0.045 + 0.05 * hash3(seed, k, 9)
            far = wp.sqrt(px * px + py * py)
            petal = mix(
                vec3(
                    hash3(seed, k, 10),
                    0.15 + 0.5 * hash3(seed, k, 11),
                    hash3(seed, k, 12),
                ),
                vec3(0.8, 0.7, 0.6),
                0.25,
            )
            if hash3(seed, k, 13) < 0.35:
                petal = vec3(0.10, 0.24, 0.08)
            c = mix(
                c,
                petal * (0.65 + 0.35 * far / radius),
                step_at(radius - far, 0.0, 0.02),
            )
            c = mix(c, vec3(0.85, 0.66, 0.15), step_at(radius * 0.28 - far, 0.0, 0.015))
        c = mix(c, mix(vec3(0.20, 0.32, 0.45), other * 0.7, 0.5) * (1.2 - 3.0 * vx), jar)
    return c * brush


@wp.func
def sign_texel(scene: Scene, level: int, index: int, x: int, y: int):
    """A texel as linear colour."""
    size = scene.sign_levels[level]
    i = (
        size[0]
        + ((index * size[2] + wp.clamp(y, 0, size[2] - 1)) * size[1] + wp.clamp(x, 0, size[1] - 1))
        * 3
    )
    c = vec3(float(scene.signs[i]), float(scene.signs[i + 1]), float(scene.signs[i + 2])) / 255.0
    return wp.cw_mul(c, wp.cw_mul(c, c * 0.31 + vec3(0.69, 0.69, 0.69)))


@wp.func
def sign_image(scene: Scene, index: int, u: float, v: float, level: int):
    """The image of a sign, bilinear in one mip level."""
    size = scene.sign_levels[level]
    x = wp.clamp(u, 0.0, 1.0) * float(size[1]) - 0.5
    y = wp.clamp(v, 0.0, 1.0) * float(size[2]) - 0.5
    x0 = wp.floor(x)
    y0 = wp.floor(y)
    ix = int(x0)
    iy = int(y0)
    top = mix(
        sign_texel(scene, level, index, ix, iy),
        sign_texel(scene, level, index, ix + 1, iy),
        x - x0,
    )
    low = mix(
        sign_texel(scene, level, index, ix, iy + 1),
        sign_texel(scene, level, index, ix + 1, iy + 1),
        x - x0,
    )
    return mix(top, low, y - y0)


@wp.func
def ground_surface(
    m: int,
    p: vec3,
    uv: vec2,
    color: vec3,
    n: vec3,
    fw: float,
    light: Light,
    table: wp.array(dtype=float),
):
    """Everything one walks on, in world coordinates."""
    s = plain(color, n)
    detail = wp.clamp(1.2 - fw * 7.0, 0.0, 1.0)
    broad = smooth_noise(table, p[0] * 0.31, p[1] * 0.31, 4)
    middle = smooth_noise(table, p[0] * 2.1, p[1] * 2.1, 5)
    fine = float(0.5)
    if detail > 0.0:
        fine = 0.5 + detail * (smooth_noise(table, p[0] * 13.0, p[1] * 13.0, 6) - 0.5)
    if m == ASPHALT:
        s.albedo = color * (0.72 + 0.28 * broad + 0.18 * middle + 0.28 * (fine - 0.5))
        crack = smooth_noise(table, p[0] * 0.9 + 3.0 * middle, p[1] * 0.9, 11)
        s.albedo = s.albedo * (
            1.0
            - 0.30
            * wp.smoothstep(0.035, 0.0, wp.abs(crack - 0.5))
            * wp.clamp(1.0 - fw * 5.0, 0.0, 1.0)
        )
        if wp.abs(uv[0]) + wp.abs(uv[1]) > 1.0e-6:
            dash = pulse(uv[0] / 6.0, 0.0, 0.5, fw / 6.0) * wp.clamp(
                (0.075 - wp.abs(uv[1])) / fw + 0.5, 0.0, 1.0
            )
            wear = 0.6 + 0.4 * smooth_noise(table, p[0] * 1.7, p[1] * 1.7, 8)
            s.albedo = mix(s.albedo, vec3(0.62, 0.62, 0.58), dash * wear)
        puddle = wp.smoothstep(
            0.44,
            0.60,
            smooth_noise(table, p[0] * 0.23, p[1] * 0.23, 9) * 0.7 + middle * 0.3,
        )
        s.mirror = light.wetness * (0.30 + 0.70 * puddle)
        s.albedo = s.albedo * (1.0 - 0.45 * light.wetness)
    elif m == PAVING:
        su = p[0] / 0.6
        sv = p[1] / 0.6 + 0.5 * wp.floor(su)
        joint = wp.max(pulse(su, 0.0, 0.035, fw / 0.6), pulse(sv, 0.0, 0.035, fw / 0.6))
        slab = hash3(int(wp.floor(su)), int(wp.floor(sv)), 6)
        s.albedo = color * (
            0.80
            + 0.22 * broad
            + 0.12 * (middle - 0.5)
            + 0.14 * (fine - 0.5)
            + 0.16 * (slab - 0.5) * wp.clamp(1.2 - fw * 1.6, 0.0, 1.0)
        )
        s.albedo = s.albedo * (1.0 - 0.32 * joint)
        puddle = wp.smoothstep(
            0.50,
            0.64,
            smooth_noise(table, p[0] * 0.31, p[1] * 0.31, 9) * 0.7 + middle * 0.3,
        )
        s.mirror = light.wetness * (0.12 + 0.55 * puddle)
        s.albedo = s.albedo * (1.0 - 0.40 * light.wetness)
    elif m == GRASS:
        blade = float(0.5)
        if detail > 0.0:
            blade = 0.5 + detail * (smooth_noise(table, p[0] * 31.0, p[1] * 9.0, 12) - 0.5)
        s.albedo = color * (
            0.62
            + 0.34 * broad
            + 0.26 * (middle - 0.5)
            + 0.42 * (blade - 0.5)
            + 0.24 * (fine - 0.5)
            + 0.18
        )
        dry = wp.smoothstep(0.58, 0.80, smooth_noise(table, p[0] * 0.12 + 9.0, p[1] * 0.12, 13))
        s.albedo = mix(
            s.albedo,
            vec3(color[1] * 0.95, color[1] * 0.78, color[1] * 0.32),
            dry * 0.45,
        )
        s.albedo = s.albedo * (1.0 - 0.2 * light.wetness)
        s.through = 0.10
    elif m == SAND:
        ripple = wp.sin(p[0] * 5.0 + 4.0 * broad + p[1] * 2.0) * wp.clamp(1.0 - fw * 3.0, 0.0, 1.0)
        s.albedo = color * (
            0.86 + 0.2 * broad + 0.14 * (middle - 0.5) + 0.16 * (fine - 0.5) + 0.035 * ripple
        )
        s.albedo = s.albedo * (1.0 - 0.35 * light.wetness)
    elif m == TILE:
        tu = p[0] / 0.6
        tv = p[1] / 0.6
        joint = wp.max(pulse(tu, 0.0, 0.02, fw / 0.6), pulse(tv, 0.0, 0.02, fw / 0.6))
        one = hash3(int(wp.floor(tu)), int(wp.floor(tv)), 7)
        s.albedo = (
            color * (0.94 + 0.08 * (one - 0.5) + 0.06 * (middle - 0.5)) * (1.0 - 0.22 * joint)
        )
        s.mirror = 0.55 * (1.0 - 0.6 * joint)
    else:  # PARQUET
        bu = p[0] / 0.09
        plank = wp.floor(bu)
        bv = p[1] / 0.9 + hash3(int(plank), 3, 3)
        joint = wp.max(pulse(bu, 0.0, 0.05, fw / 0.09), pulse(bv, 0.0, 0.006, fw / 0.9))
        tone = hash3(int(plank), int(wp.floor(bv)), 9)
        near = wp.clamp(1.2 - fw * 10.0, 0.0, 1.0)
        grain = smooth_noise(table, p[0] * 60.0, p[1] * 2.5, 14) - 0.5
        s.albedo = (
            color
            * (0.92 + near * (0.34 * (tone - 0.5) + 0.16 * grain) + 0.1 * (broad - 0.5))
            * (1.0 - 0.4 * joint)
        )
        s.mirror = 0.34
    return s


@wp.func
def surface_at(
    scene: Scene,
    light: Light,
    t: int,
    m: int,
    p: vec3,
    n: vec3,
    uv: vec2,
    d: vec3,
    fw: float,
    front: int,
):
    """The material of a face at a point."""
    color = scene.color[t]
    table = scene.noise
    s = plain(color, n)
    wall_u = p[0] + p[1]
    if t >= scene.num_static:
        wall_u = uv[0]
    if m == MATTE:
        if t < scene.num_static:
            s.albedo = color * (
                0.93 + 0.14 * smooth_noise(table, wall_u * 0.9, p[2] * 0.9 + p[1] * 0.3, 15)
            )
        else:  # cloth falls in folds
            s.albedo = color * (
                0.88
                + 0.24
                * smooth_noise(table, uv[0] * 17.0, uv[1] * 7.0, (scene.instance[t] & 63) + 31)
            )
    elif m == ASPHALT or m == PAVING or m == GRASS or m == SAND or m == TILE or m == PARQUET:
        s = ground_surface(m, p, uv, color, n, fw, light, table)
    elif m == FACADE or m >= FACADE_BRICK:
        s = facade_surface(m, uv[0], uv[1], scene.instance[t] * 13 + 3, color, n, fw, light, table)
    elif m == FOLIAGE:
        clump = smooth_noise(table, p[0] * 1.1 + p[2] * 0.8, p[1] * 1.1 - p[2] * 1.0, 16)
        spray = smooth_noise(table, p[0] * 4.3 - p[2] * 3.1, p[1] * 4.3 + p[2] * 3.7, 17)
        leaf = float(0.5)
        fade = wp.clamp(1.3 - fw * 9.0, 0.0, 1.0)
        if fade > 0.0:
            leaf = 0.5 + fade * (
                smooth_noise(table, p[0] * 17.0 + p[2] * 11.0, p[1] * 17.0 - p[2] * 13.0, 18) - 0.5
            )
        # gaps between sprays are dark, their lit tips lean to yellow
        depth = wp.smoothstep(0.18, 0.62, 0.45 * clump + 0.55 * spray)
        tone = (0.40 + 0.62 * depth) * (0.50 + 1.0 * leaf)
        s.albedo = color * tone
        warm = vec3(s.albedo[0] * 1.30, s.albedo[1] * 1.06, s.albedo[2] * 0.75)
        s.albedo = mix(s.albedo, warm, clump)
        s.normal = wp.normalize(n + vec3(spray + leaf - 1.0, leaf - 0.5, clump - 0.3) * 1.1)
        s.through = 0.28
        if front == 0:
            s.albedo = s.albedo * 0.5
    elif m == BARK:
        ridge = smooth_noise(table, wall_u * 14.0, p[2] * 2.2, 18)
        s.albedo = color * (0.66 + 0.62 * ridge)
    elif m == PAINT:
        s.albedo = color
        s.mirror = 0.32
        s.shine = 0.9
    elif m == GLASS:
        s.albedo = wp.cw_mul(color, vec3(0.25, 0.27, 0.29)) + vec3(0.012, 0.014, 0.016)
        s.mirror = 0.9
        s.shine = 0.8
    elif m == METAL:
        s.albedo = color * (0.80 + 0.2 * smooth_noise(table, wall_u * 3.0, p[2] * 24.0, 19))
        s.mirror = 0.22
        s.shine = 0.6
    elif m == SIGN:
        if front == 1:
            f = scene.faces[t]
            edge = scene.positions[f[1]] - scene.positions[f[0]]
            across = scene.uv[f[1]] - scene.uv[f[0]]
            other = scene.positions[f[2]] - scene.positions[f[0]]
            over = scene.uv[f[2]] - scene.uv[f[0]]
            size = scene.sign_levels[0]
            world_area = wp.length(wp.cross(edge, other))
            texel_area = (
                wp.abs(across[0] * over[1] - across[1] * over[0]) * float(size[1]) * float(size[2])
            )
            texels = fw * wp.sqrt(texel_area / wp.max(world_area, 1.0e-6))
            level = int(0)
            if texels > 1.6:
                level = 1
            if texels > 3.2:
                level = 2
            if texels > 6.4:
                level = 3
            index = wp.clamp(int(color[0] + 0.5), 0, scene.num_signs - 1)
            image = sign_image(scene, index, uv[0], uv[1], level)
            s.albedo = image * 0.82
            s.emission = image * (0.9 * light.lamp_level)
            if light.indoor == 1:
                s.emission = image * 0.25
        else:
            s.albedo = vec3(0.16, 0.16, 0.17)
    elif m == LAMP:
        glow = 0.35 + 3.2 * light.lamp_level
        s.albedo = color * 0.4 + vec3(0.2, 0.2, 0.2)
        s.emission = color * glow
    elif m == WATER:
        w = light.time_s
        far = wp.clamp(1.0 - fw * 2.2, 0.10, 1.0)
        ax = smooth_noise(table, p[0] * 1.1 + w * 0.55, p[1] * 1.1 + w * 0.2, 20) - 0.5
        ay = smooth_noise(table, p[0] * 1.1 - w * 0.3, p[1] * 1.1 + w * 0.5, 21) - 0.5
        bx = smooth_noise(table, p[0] * 3.7 - w * 0.9, p[1] * 3.7 + w * 0.4, 22) - 0.5
        by = smooth_noise(table, p[0] * 3.7 + w * 0.6, p[1] * 3.7 - w * 0.8, 23) - 0.5
        s.normal = wp.normalize(n + vec3(0.10 * ax + 0.05 * bx, 0.10 * ay + 0.05 * by, 0.0) * far)
        s.albedo = color * (0.55 + 0.25 * ax)
        s.mirror = 1.0
        s.shine = 0.5
    elif m == WOOD:
        board = wp.floor(uv[1] / 0.14)
        joint = pulse(uv[1] / 0.14, 0.0, 0.07, fw / 0.14)
        tone = hash3(int(board), int(wp.floor(uv[0] / 1.7 + 0.37 * board)), 10)
        near = wp.clamp(1.2 - fw * 7.0, 0.0, 1.0)
        grain = smooth_noise(table, uv[0] * 2.2, uv[1] * 46.0, 24) - 0.5
        s.albedo = color * (0.92 + 0.22 * (tone - 0.5) + 0.26 * near * grain) * (1.0 - 0.5 * joint)
        s.shine = 0.08
    elif m == PICTURE:
        if front == 1:
            border = wp.min(wp.min(uv[0], 1.0 - uv[0]), wp.min(uv[1], 1.0 - uv[1]))
            seed = int(color[0] + 0.5)
            if border < 0.075:
                gold = mix(
                    vec3(0.62, 0.43, 0.14),
                    vec3(0.09, 0.055, 0.035),
                    wp.smoothstep(0.5, 0.52, hash3(seed, 9, 9)),
                )
                ridge = 0.72 + 0.55 * wp.sin(border * 84.0)
                s.albedo = gold * wp.max(ridge, 0.3)
                s.shine = 0.4
            else:
                s.albedo = painting((uv[0] - 0.075) / 0.85, (uv[1] - 0.075) / 0.85, seed, fw, table)
                s.emission = s.albedo * (0.10 * float(light.indoor))
        else:
            s.albedo = vec3(0.25, 0.18, 0.12)
    elif m == STRIPE:
        band = pulse(uv[0] / 0.8, 0.0, 0.5, fw / 0.8)
        s.albedo = mix(vec3(0.86, 0.85, 0.82), color, band)
        s.through = 0.35
    elif m == SKIN:
        s.albedo = color * (0.9 + 0.2 * smooth_noise(table, uv[0] * 5.0, uv[1] * 5.0, 25))
        s.through = 0.06
    elif m == SPOTS:
        gx = uv[0] / 0.26
        gy = uv[1] / 0.26
        ix = int(wp.floor(gx))
        iy = int(wp.floor(gy))
        best = float(9.0)
        second = float(9.0)
        for j in range(-1, 2):
            for i in range(-1, 2):
                qx = float(ix + i) + 0.15 + 0.7 * hash3(ix + i, iy + j, 31) - gx
                qy = float(iy + j) + 0.15 + 0.7 * hash3(ix + i, iy + j, 32) - gy
                far2 = qx * qx + qy * qy
                if far2 < best:
                    second = best
                    best = far2
                elif far2 < second:
                    second = far2
        gap = wp.sqrt(second) - wp.sqrt(best)
        patch = wp.smoothstep(0.10, 0.22 + fw * 2.0, gap) * wp.clamp(1.25 - fw * 2.5, 0.45, 1.0)
        s.albedo = mix(color, vec3(color[0] * 0.42, color[1] * 0.26, color[2] * 0.16), patch)
    elif m == BANDS:
        bend = 0.35 * (smooth_noise(table, uv[0] * 4.0, uv[1] * 4.0, 26) - 0.5)
        band = pulse(uv[0] / 0.17 + bend, 0.0, 0.46, fw / 0.17)
        s.albedo = mix(color, vec3(0.025, 0.022, 0.022), band * 0.95)
    elif m == ROCK:
        a = smooth_noise(table, p[0] * 0.9 + p[2] * 0.7, p[1] * 0.9 - p[2] * 0.6, 27)
        b = smooth_noise(table, p[0] * 3.3 - p[2] * 2.9, p[1] * 3.3 + p[2] * 2.1, 28)
        layer = smooth_noise(table, p[2] * 4.0 + a * 2.0, a * 3.0, 29)
        s.albedo = color * (0.55 + 0.35 * a + 0.3 * b + 0.25 * layer)
        s.normal = wp.normalize(n + vec3(a - 0.5, b - 0.5, layer - 0.5) * 0.7)
    elif m == ROOF:
        row = uv[1] / 0.32
        tile = pulse(row, 0.0, 0.16, fw / 0.32)
        column = pulse(uv[0] / 0.28 + 0.5 * wp.floor(row), 0.0, 0.1, fw / 0.28)
        tone = hash3(int(wp.floor(uv[0] / 0.28 + 0.5 * wp.floor(row))), int(wp.floor(row)), 11)
        s.albedo = (
            color
            * (0.95 + 0.2 * (tone - 0.5) * wp.clamp(1.2 - fw * 3.0, 0.0, 1.0))
            * (1.0 - 0.32 * wp.max(tile, column * 0.6))
        )
    elif m == BRICK:
        course = wp.floor(uv[1] / 0.08)
        bu = uv[0] / 0.25 + 0.5 * course
        joint = wp.max(pulse(uv[1] / 0.08, 0.0, 0.13, fw / 0.08), pulse(bu, 0.0, 0.05, fw / 0.25))
        fade = wp.clamp(1.3 - fw * 9.0, 0.0, 1.0)
        tone = hash3(int(course), int(wp.floor(bu)), 12)
        s.albedo = color * (
            0.86
            + 0.24 * smooth_noise(table, uv[0] * 0.5, uv[1] * 0.4, 30)
            + 0.36 * fade * (tone - 0.5)
        )
        s.albedo = mix(s.albedo, vec3(0.52, 0.49, 0.45), joint * (0.3 + 0.4 * fade))
    elif m == NEON:
        bulb = uv[0] / 0.3
        chase = 0.55 + 0.45 * wp.sin(wp.floor(bulb) * 0.9 - light.time_s * 5.0)
        spot = wp.lerp(
            1.0,
            0.45 + 1.1 * pulse(bulb, 0.2, 0.8, fw / 0.3),
            wp.clamp(1.2 - fw * 2.5, 0.0, 1.0),
        )
        s.albedo = color * 0.35
        s.emission = color * ((0.8 + 1.8 * light.lamp_level) * chase * spot)
    return s


# ---------------------------------------------------------------------------------------------
# light


@wp.func
def map_tap(depths: wp.array(dtype=float), width: int, height: int, x: float, y: float, z: float):
    """Bilinear share of four texels that lie behind z."""
    ix = int(wp.floor(x - 0.5))
    iy = int(wp.floor(y - 0.5))
    if ix < 0 or iy < 0 or ix >= width - 1 or iy >= height - 1:
        return 1.0
    fx = x - 0.5 - float(ix)
    fy = y - 0.5 - float(iy)
    k = iy * width + ix
    a = wp.where(depths[k] > z, 1.0, 0.0)
    b = wp.where(depths[k + 1] > z, 1.0, 0.0)
    c = wp.where(depths[k + width] > z, 1.0, 0.0)
    d = wp.where(depths[k + width + 1] > z, 1.0, 0.0)
    low = a + (b - a) * fx
    high = c + (d - c) * fx
    return low + (high - low) * fy


@wp.func
def key_visibility(scene: Scene, light: Light, p: vec3, n: vec3):
    """How much of the key light arrives: filtered depth maps of what stands and what moves."""
    grazing = 1.0 - wp.clamp(wp.dot(n, light.key), 0.0, 1.0)
    q = light.to_map * (p + n * (0.04 + (0.4 + 2.2 * grazing) / light.map_scale))
    x = (q[0] - light.map_low[0]) * light.map_scale
    y = (q[1] - light.map_low[1]) * light.map_scale
    z = q[2] - light.map_low[2] - 0.05
    w = light.map_width
    h = light.map_height
    r = light.softness * light.map_scale + 0.55
    a = r * 0.92
    b = r * 0.38
    seen = 0.25 * (
        map_tap(scene.shadow, w, h, x + a, y + b, z)
        + map_tap(scene.shadow, w, h, x - b, y + a, z)
        + map_tap(scene.shadow, w, h, x - a, y - b, z)
        + map_tap(scene.shadow, w, h, x + b, y - a, z)
    )
    if r > 1.6:
        a = r * 0.50
        b = r * 0.22
        inner = 0.25 * (
            map_tap(scene.shadow, w, h, x + a, y - b, z)
            + map_tap(scene.shadow, w, h, x + b, y + a, z)
            + map_tap(scene.shadow, w, h, x - a, y + b, z)
            + map_tap(scene.shadow, w, h, x - b, y - a, z)
        )
        seen = 0.5 * (seen + inner)
    if light.moving_on == 1 and seen > 0.0:
        size = light.moving_size
        x = (q[0] - light.moving_low[0]) * light.moving_scale
        y = (q[1] - light.moving_low[1]) * light.moving_scale
        z = q[2] - light.moving_low[2] - 0.10
        if x > 2.0 and y > 2.0 and x < float(size) - 3.0 and y < float(size) - 3.0:
            a = wp.min(light.softness, 0.25) * light.moving_scale + 0.45
            b = a * 0.4
            free = 0.25 * (
                map_tap(scene.moving_shadow, size, size, x + a, y + b, z)
                + map_tap(scene.moving_shadow, size, size, x - b, y + a, z)
                + map_tap(scene.moving_shadow, size, size, x - a, y - b, z)
                + map_tap(scene.moving_shadow, size, size, x + b, y - a, z)
            )
            seen = wp.min(seen, free)
    return seen


@wp.func
def height_at(field: wp.array(dtype=float), light: Light, x: float, y: float, layer: int):
    """Height of the blurred surroundings."""
    u = wp.clamp(
        (x - light.field_low[0]) * light.field_scale - 0.5,
        0.0,
        float(light.field_width) - 1.01,
    )
    v = wp.clamp(
        (y - light.field_low[1]) * light.field_scale - 0.5,
        0.0,
        float(light.field_height) - 1.01,
    )
    ix = int(u)
    iy = int(v)
    fx = u - float(ix)
    fy = v - float(iy)
    k = (layer * light.field_height + iy) * light.field_width + ix
    low = field[k] + (field[k + 1] - field[k]) * fx
    high = (
        field[k + light.field_width]
        + (field[k + light.field_width + 1] - field[k + light.field_width]) * fx
    )
    return low + (high - low) * fy


@wp.func
def lamp_light(scene: Scene, light: Light, p: vec3, n: vec3, through: float):
    """Irradiance from the lamps of the cell."""
    total = vec3(0.0, 0.0, 0.0)
    cx = int(wp.floor((p[0] - light.cells_low[0]) * light.cells_per_m))
    cy = int(wp.floor((p[1] - light.cells_low[1]) * light.cells_per_m))
    if cx < 0 or cy < 0 or cx >= light.cells_x or cy >= light.cells_y:
        return total
    first = (cy * light.cells_x + cx) * LIGHTS_A_CELL
    for j in range(LIGHTS_A_CELL):
        k = scene.cells[first + j]
        if k < 0:
            return total
        lamp = scene.lamp[k]
        away = vec3(lamp[0], lamp[1], lamp[2]) - p
        r2 = wp.dot(away, away)
        reach2 = lamp[3] * lamp[3]
        if r2 < reach2:
            window = 1.0 - r2 / reach2
            inv = 1.0 / wp.sqrt(r2 + 1.0e-4)
            facing = wp.dot(n, away) * inv
            lit = wp.max(facing, 0.0) + through * wp.max(-facing, 0.0) + 0.06
            total = total + scene.lamp_color[k] * (lit * window * window / (r2 + LAMP_SIZE_M2))
    return total


@wp.struct
class Shaded:
    """Radiance of a point, and the mirror that `reflect` may still fill."""

    color: vec3
    mirror: float
    direction: vec3
    guess: vec3  # what the mirror shows until `reflect` knows better


@wp.func
def shade_point(
    scene: Scene,
    light: Light,
    camera: Camera,
    t: int,
    w0: float,
    w1: float,
    w2: float,
    d: vec3,
):
    """Radiance towards the camera of one point of a face."""
    f = scene.faces[t]
    p = scene.positions[f[0]] * w0 + scene.positions[f[1]] * w1 + scene.positions[f[2]] * w2
    n = wp.normalize(scene.normals[f[0]] * w0 + scene.normals[f[1]] * w1 + scene.normals[f[2]] * w2)
    uv = scene.uv[f[0]] * w0 + scene.uv[f[1]] * w1 + scene.uv[f[2]] * w2
    flat = wp.cross(
        scene.positions[f[1]] - scene.positions[f[0]],
        scene.positions[f[2]] - scene.positions[f[0]],
    )
    front = int(1)
    if wp.dot(flat, d) > 0.0:
        front = 0
        n = -n
    m = scene.material[t] & 255
    distance = wp.length(p - camera.centre)
    facing = wp.max(-wp.dot(n, d), 0.12)
    fw = distance / camera.focal * wp.min(1.0 / facing, 5.0)
    s = surface_at(scene, light, t, m, p, n, uv, d, fw, front)
    n = s.normal
    albedo = s.albedo
    mirror = s.mirror
    if (
        light.snow > 0.0
        and light.indoor == 0
        and m != WATER
        and m != LAMP
        and m != NEON
        and t < scene.num_static
    ):
        drift = smooth_noise(scene.noise, p[0] * 0.7, p[1] * 0.7, 33)
        cover = wp.smoothstep(0.45, 0.8, n[2] + 0.35 * (drift - 0.5)) * wp.min(
            light.snow * 1.2, 1.0
        )
        if m == ASPHALT:
            cover = cover * wp.smoothstep(0.35, 0.65, drift)
        albedo = mix(albedo, vec3(0.80, 0.83, 0.88), cover * 0.9)
        mirror = mirror * (1.0 - cover)
    # light from everywhere
    up = 0.5 + 0.5 * n[2]
    open_sky = float(1.0)
    ambient = vec3(0.0, 0.0, 0.0)
    if light.indoor == 1:
        dx = wp.max(wp.min(p[0] - light.room_low[0], light.room_high[0] - p[0]), 0.0)
        dy = wp.max(wp.min(p[1] - light.room_low[1], light.room_high[1] - p[1]), 0.0)
        dz = wp.max(p[2] - light.room_low[2], 0.0)
        corner = (0.80 + 0.20 * wp.min(dx * 0.9, 1.0)) * (0.80 + 0.20 * wp.min(dy * 0.9, 1.0))
        corner = corner * (0.72 + 0.28 * wp.min(dz * 1.1, 1.0))
        ambient = light.room_ambient * (corner * (0.62 + 0.20 * up + 0.22 * wp.max(-n[2], 0.0)))
    else:
        near = wp.max(
            height_at(scene.field, light, p[0] + n[0] * 1.0, p[1] + n[1] * 1.0, 0)
            - p[2]
            - n[2] * 0.6,
            0.0,
        )
        far = wp.max(
            height_at(scene.field, light, p[0] + n[0] * 6.0, p[1] + n[1] * 6.0, 1)
            - p[2]
            - n[2] * 0.6,
            0.0,
        )
        open_sky = 1.0 / ((1.0 + near * 0.40) * (1.0 + far * 0.055))
        if m == FOLIAGE:
            open_sky = wp.max(open_sky, 0.5) * (0.6 + 0.4 * up)
        below = light.horizon * 0.25 + light.sun_color * 0.045
        ambient = mix(below, mix(light.zenith, light.horizon, 0.45), up) * (0.12 + 0.88 * open_sky)
        ambient = ambient + light.sun_color * (
            0.035 * (1.0 - wp.abs(n[2])) * (0.4 + 0.6 * open_sky)
        )
    c = wp.cw_mul(albedo, ambient)
    # the key light
    toward = wp.dot(n, light.key)
    lit = wp.max(toward, 0.0)
    if m == FOLIAGE:
        lit = 0.12 + 0.80 * lit
    if toward < 0.0:
        lit = wp.max(lit, -toward * s.through)
    seen = float(0.0)
    if lit > 0.0:
        seen = key_visibility(scene, light, p, n)
        c = c + wp.cw_mul(albedo, light.key_color) * (lit * seen)
    if s.shine > 0.02 and seen > 0.0:
        half = wp.max(wp.dot(n, wp.normalize(light.key - d)), 0.0)
        half = half * half
        half = half * half
        half = half * half
        half = half * half
        half = half * half * half
        c = c + light.key_color * wp.min(s.shine * seen * half * 0.8, 0.5)
    if light.lamp_level > 0.01:
        c = c + wp.cw_mul(albedo, lamp_light(scene, light, p, n, s.through)) * light.lamp_level
    r = Shaded()
    r.mirror = 0.0
    r.direction = vec3(0.0, 0.0, 1.0)
    r.guess = vec3(0.0, 0.0, 0.0)
    if mirror > 0.02:
        bent = n
        if m == ASPHALT or m == PAVING:
            bent = wp.normalize(
                n
                + vec3(
                    0.013 * (smooth_noise(scene.noise, p[0] * 2.0, p[1] * 2.0, 34) - 0.5),
                    0.013 * (smooth_noise(scene.noise, p[0] * 2.0, p[1] * 2.0, 35) - 0.5),
                    0.0,
                )
            )
        back = d - bent * (2.0 * wp.dot(d, bent))
        graze = 1.0 - wp.clamp(-wp.dot(bent, d), 0.0, 1.0)
        g2 = graze * graze
        k = mirror * wp.clamp(0.06 + 0.9 * g2 * g2 * graze + 0.10 * g2, 0.0, 1.0)
        if m == PAINT or m == METAL:
            k = mirror * (0.25 + 0.6 * g2 * graze)
        if m == GLASS:
            k = mirror * (0.22 + 0.7 * g2 * graze)
        r.mirror = k
        coated = m == PAINT or m == METAL or (m == GLASS and light.indoor == 0)
        if coated:
            r.mirror = 0.0  # curved or brushed: what the screen shows would only sparkle
        r.direction = back
        c = c * (1.0 - k)
        # the fallback; `reflect` adds what the screen knows on top of it
        windows = float(1.0)
        if coated:
            windows = 0.0
        env = surroundings(p, back, light, scene.noise, 1.0 - open_sky, windows)
        peak = wp.max(env[0], wp.max(env[1], env[2]))
        env = env * (1.0 / wp.max(1.0, peak / 3.0))
        r.guess = env
        c = c + env * k
    c = c + s.emission
    if light.indoor == 0:
        thick = light.fog_per_m * wp.max(distance - 6.0, 0.0)
        fog = 1.0 - wp.exp(-thick * wp.exp(-wp.max(p[2], 0.0) * 0.015))
        glow = wp.max(wp.dot(d, light.sun), 0.0)
        glow = glow * glow * glow
        c = mix(c, light.fog_color + light.sun_color * (0.10 * glow * glow), fog)
        r.mirror = r.mirror * (1.0 - fog)
    r.color = c
    return r


@wp.kernel
def shade(
    scene: Scene,
    light: Light,
    camera: Camera,
    keys: wp.array(dtype=wp.int64),
    offsets: wp.array(dtype=vec2),
    num_samples: int,
    width: int,
    height: int,
    hdr: wp.array(dtype=vec3),
    mirrors: wp.array(dtype=vec4),
    guesses: wp.array(dtype=vec3),
    depth: wp.array(dtype=float),
    instance: wp.array(dtype=int),
    normal: wp.array(dtype=vec3),
):
    """Annotations from the centre of a pixel, colour from all its samples."""
    i = wp.tid()
    x = i % width
    y = i // width
    size = width * height
    back = wp.transpose(camera.rotation)
    total = vec3(0.0, 0.0, 0.0)
    color0 = vec3(0.0, 0.0, 0.0)
    color1 = vec3(0.0, 0.0, 0.0)
    t0 = int(-2)
    t1 = int(-2)
    num_same = float(1.0)
    mirror = vec4(0.0, 0.0, 0.0, 0.0)
    for s in range(num_samples):
        key = keys[s * size + i]
        t = int(-1)
        if key < NO_HIT:
            t = int(key & wp.int64(0xFFFFFFFF))
        same = int(0)
        if s > 0:
            if t == t0:
                same = 1
            elif t == t1:
                same = 2
            elif t >= 0 and t0 >= 0:
                if (
                    scene.instance[t] == scene.instance[t0]
                    and scene.material[t] == scene.material[t0]
                ):
                    if (
                        scene.material[t] == FOLIAGE
                        or wp.dot(scene.face_normal[t], scene.face_normal[t0]) > 0.80
                    ):
                        same = 1
        if same == 1:
            total = total + color0
            num_same += 1.0
        elif same == 2:
            total = total + color1
        else:
            o = offsets[s]
            px = float(x) + o[0] - camera.cx
            py = float(y) + o[1] - camera.cy
            d = wp.normalize(back * vec3(px / camera.focal, py / camera.focal, 1.0))
            c = vec3(0.0, 0.0, 0.0)
            if t < 0:
                if light.indoor == 1:
                    c = light.room_ambient * 0.8
                else:
                    c = sky_color(d, light, scene.noise, 1)
                    haze = wp.clamp(light.fog_per_m * 60.0, 0.0, 1.0)
                    c = mix(
                        c,
                        light.fog_color,
                        haze * wp.clamp(1.0 - d[2] * (2.6 - 2.2 * haze), 0.0, 1.0),
                    )
                if s == 0:
                    depth[i] = 0.0
                    instance[i] = 0
                    normal[i] = vec3(0.0, 0.0, 0.0)
            else:
                f = scene.faces[t]
                a = camera.rotation * (scene.positions[f[0]] - camera.centre)
                b = camera.rotation * (scene.positions[f[1]] - camera.centre)
                cc = camera.rotation * (scene.positions[f[2]] - camera.centre)
                ray = vec3(px / camera.focal, py / camera.focal, 1.0)
                e0 = wp.dot(wp.cross(b, cc), ray)
                e1 = wp.dot(wp.cross(cc, a), ray)
                e2 = wp.dot(wp.cross(a, b), ray)
                inv = 1.0 / (e0 + e1 + e2)
                w0 = e0 * inv
                w1 = e1 * inv
                w2 = e2 * inv
                got = shade_point(scene, light, camera, t, w0, w1, w2, d)
                c = got.color
                if s == 0:
                    depth[i] = w0 * a[2] + w1 * b[2] + w2 * cc[2]
                    instance[i] = scene.instance[t]
                    n = (
                        scene.normals[f[0]] * w0
                        + scene.normals[f[1]] * w1
                        + scene.normals[f[2]] * w2
                    )
                    normal[i] = wp.normalize(n)
                    mirror = vec4(got.direction[0], got.direction[1], got.direction[2], got.mirror)
                    guesses[i] = got.guess
            c = vec3(
                wp.clamp(c[0], 0.0, 10.0), wp.clamp(c[1], 0.0, 10.0), wp.clamp(c[2], 0.0, 10.0)
            )
            if s == 0:
                color0 = c
                t0 = t
            else:
                color1 = c
                t1 = t
            total = total + c
    hdr[i] = total * (1.0 / float(num_samples))
    mirrors[i] = vec4(mirror[0], mirror[1], mirror[2], mirror[3] * num_same / float(num_samples))


@wp.kernel
def reflect(
    camera: Camera,
    width: int,
    height: int,
    hdr: wp.array(dtype=vec3),
    mirrors: wp.array(dtype=vec4),
    guesses: wp.array(dtype=vec3),
    depth: wp.array(dtype=float),
    out: wp.array(dtype=vec3),
):
    """Replaces the guessed surroundings in mirrors by what the frame itself shows there."""
    i = wp.tid()
    c = hdr[i]
    m = mirrors[i]
    if m[3] > 0.03:
        x = i % width
        y = i // width
        z = depth[i]
        ray = vec3(
            (float(x) + 0.5 - camera.cx) / camera.focal,
            (float(y) + 0.5 - camera.cy) / camera.focal,
            1.0,
        )
        start = ray * z
        d = camera.rotation * vec3(m[0], m[1], m[2])
        reach = 0.12 + z * 0.03
        found = int(-1)
        fade = float(0.0)
        for _step in range(18):
            q = start + d * reach
            if q[2] > 0.1:
                sx = q[0] / q[2] * camera.focal + camera.cx
                sy = q[1] / q[2] * camera.focal + camera.cy
                if sx < 0.0 or sy < 0.0 or sx >= float(width) or sy >= float(height):
                    break
                j = int(sy) * width + int(sx)
                there = depth[j]
                behind = q[2] - there
                if (
                    there > 0.5 * z
                    and there > 0.0
                    and behind > 0.02
                    and behind < 0.35 + reach * 0.45
                ):
                    found = j
                    edge_x = wp.min(sx, float(width) - sx) / float(width)
                    edge_y = wp.min(sy, float(height) - sy) / float(height)
                    fade = wp.clamp(wp.min(edge_x, edge_y) * 12.0, 0.0, 1.0)
                    break
            reach = reach * 1.28 + 0.06
        if found >= 0:
            above = wp.max(found - width, 0)
            below = wp.min(found + width, width * height - 1)
            hit = hdr[found] * 0.5 + hdr[above] * 0.25 + hdr[below] * 0.25
            hit = vec3(wp.min(hit[0], 6.0), wp.min(hit[1], 6.0), wp.min(hit[2], 6.0))
            c = c + (hit - guesses[i]) * (m[3] * fade)
            c = vec3(wp.max(c[0], 0.0), wp.max(c[1], 0.0), wp.max(c[2], 0.0))
    out[i] = c


# ---------------------------------------------------------------------------------------------
# finish: exposure, bloom, curve, rain and snow


@wp.kernel
def measure_light(
    hdr: wp.array(dtype=vec3),
    depth: wp.array(dtype=float),
    width: int,
    height: int,
    out: wp.array(dtype=float),
):
    """Mean of the logarithm of luminance, in one thread so that its order is fixed."""
    total = float(0.0)
    weights = float(0.0)
    for j in range(1, 32):
        for k in range(1, 32):
            i = (j * height // 32) * width + k * width // 32
            weight = 1.0 + wp.sin(float(j) * 0.098) * wp.sin(float(k) * 0.098)
            if depth[i] == 0.0:
                weight = weight * 0.4  # the sky may be brighter than what stands before it
            total += wp.log(wp.min(grey(hdr[i]), 6.0) + 1.0e-3) * weight
            weights += weight
    out[0] = total / weights


@wp.kernel
def bloom_source(
    hdr: wp.array(dtype=vec3),
    width: int,
    small_width: int,
    threshold: float,
    out: wp.array(dtype=vec3),
):
    """What is too bright, in blocks of 4 x 4 pixels."""
    i = wp.tid()
    x = i % small_width
    y = i // small_width
    total = vec3(0.0, 0.0, 0.0)
    for j in range(4):
        for k in range(4):
            c = hdr[(y * 4 + j) * width + x * 4 + k]
            peak = wp.max(c[0], wp.max(c[1], c[2]))
            total = total + c * (wp.max(peak - threshold, 0.0) / (peak + 0.001))
    out[i] = total / 16.0


@wp.kernel
def bloom_blur(
    a: wp.array(dtype=vec3),
    width: int,
    height: int,
    dx: int,
    dy: int,
    out: wp.array(dtype=vec3),
):
    """One pass of a long-tailed blur."""
    i = wp.tid()
    x = i % width
    y = i // width
    total = vec3(0.0, 0.0, 0.0)
    weights = float(0.0)
    for k in range(-4, 5):
        w = 1.0 / (1.0 + float(k * k) * 0.22)
        total = (
            total
            + a[wp.clamp(y + k * dy, 0, height - 1) * width + wp.clamp(x + k * dx, 0, width - 1)]
            * w
        )
        weights += w
    out[i] = total / weights


@wp.func
def to_byte(curve: wp.array(dtype=wp.uint8), v: float):
    """Through the tone curve."""
    return curve[int(wp.max(v, 0.0) / (wp.max(v, 0.0) + 1.0) * 4095.0)]


@wp.kernel
def finish(
    hdr: wp.array(dtype=vec3),
    bloom: wp.array(dtype=vec3),
    width: int,
    height: int,
    small_width: int,
    small_height: int,
    exposure: float,
    bloom_gain: float,
    rain: float,
    snow: float,
    time_s: float,
    heading: float,
    streak_light: float,
    depth: wp.array(dtype=float),
    curve: wp.array(dtype=wp.uint8),
    out: wp.array(dtype=wp.uint8),
):
    """Exposure, bloom, rain or snow, tone curve."""
    i = wp.tid()
    x = i % width
    y = i // width
    u = wp.clamp((float(x) + 0.5) * 0.25 - 0.5, 0.0, float(small_width) - 1.01)
    v = wp.clamp((float(y) + 0.5) * 0.25 - 0.5, 0.0, float(small_height) - 1.01)
    ix = int(u)
    iy = int(v)
    k = iy * small_width + ix
    low = mix(bloom[k], bloom[k + 1], u - float(ix))
    high = mix(bloom[k + small_width], bloom[k + small_width + 1], u - float(ix))
    c = hdr[i] + mix(low, high, v - float(iy)) * bloom_gain
    qx = float(x) / float(width) - 0.5
    qy = float(y) / float(height) - 0.5
    c = c * (exposure * (1.0 - 0.40 * (qx * qx + qy * qy)))
    if rain > 0.0:
        wetlight = float(0.0)
        for layer in range(3):
            near = 1.0 + 0.9 * float(layer)
            sx = (
                (float(x) + heading * 120.0 + float(y) * (0.10 + 0.03 * float(layer)))
                / float(height)
                * (62.0 - 15.0 * float(layer))
            )
            column = int(wp.floor(sx))
            speed = 2.6 + 1.2 * hash3(column, layer, 41)
            sy = (
                float(y) / float(height) * (1.6 / near)
                - time_s * speed
                + hash3(column, layer, 42) * 7.0
            )
            drop = hash3(column, int(wp.floor(sy)), 43 + layer)
            if drop < 0.22 + 0.35 * rain:
                fy = sy - wp.floor(sy)
                fx = wp.abs(sx - wp.floor(sx) - 0.5)
                length = 0.10 + 0.14 * hash3(column, layer, 44)
                if fy < length:
                    wide = wp.max(0.10, 62.0 / float(height) * 0.35)
                    wetlight += wp.max(1.0 - fx / wide, 0.0) * (fy / length) * (0.05 + 0.035 * near)
        c = c + vec3(0.85, 0.92, 1.0) * (wetlight * rain * streak_light)
    if snow > 0.0:
        white = float(0.0)
        for layer in range(4):
            # each layer falls at a distance of its own and not before what is nearer
            if depth[i] == 0.0 or depth[i] > 9.0 - 2.5 * float(layer):
                cells = 46.0 - 7.0 * float(layer)
                drift = wp.sin(time_s * 0.8 + float(layer)) * 0.25
                sx = (float(x) + heading * 140.0) / float(height) * cells + drift
                sx = sx + float(y) / float(height) * (1.4 - 0.9 * float(layer))
                sy = float(y) / float(height) * cells - time_s * (3.1 + 1.1 * float(layer))
                ix2 = int(wp.floor(sx))
                iy2 = int(wp.floor(sy))
                if hash3(ix2, iy2, 51 + layer) < 0.06 + 0.10 * snow:
                    ox = sx - wp.floor(sx) - 0.25 - 0.5 * hash3(ix2, iy2, 61)
                    oy = sy - wp.floor(sy) - 0.30 - 0.4 * hash3(ix2, iy2, 62)
                    # never thinner than the pixels: a flake that is smaller is paler instead
                    size = 0.030 + 0.055 * hash3(ix2, iy2, 63)
                    radius = wp.max(size, 1.0 * cells / float(height))
                    share = wp.min(1.6 * size / radius, 1.0)
                    oy = oy * 0.62  # a shutter's time of falling: longer than wide
                    soft = wp.clamp(1.0 - (ox * ox + oy * oy) / (radius * radius), 0.0, 1.0)
                    pale = 0.40 + 0.45 * hash3(ix2, iy2, 64)
                    white = wp.max(white, soft * share * pale)
        c = mix(
            c,
            vec3(0.95, 0.97, 1.0) * (streak_light * 0.9 + 0.05),
            white * wp.min(snow * 1.5, 1.0),
        )
    peak = wp.max(c[0], wp.max(c[1], c[2]))
    c = mix(c, vec3(peak, peak, peak), wp.clamp((peak - 1.2) * 0.10, 0.0, 0.55))
    for j in range(3):
        out[i * 3 + j] = to_byte(curve, c[j])


@wp.kernel
def measure_boxes(
    instance: wp.array(dtype=int),
    depth: wp.array(dtype=float),
    width: int,
    boxes: wp.array(dtype=int, ndim=2),
):
    """Per instance: x0, y0, x1, y1, number of pixels, number nearer than 1 m."""
    i = wp.tid()
    k = instance[i]
    x = i % width
    y = i // width
    wp.atomic_min(boxes, k, 0, x)
    wp.atomic_min(boxes, k, 1, y)
    wp.atomic_max(boxes, k, 2, x)
    wp.atomic_max(boxes, k, 3, y)
    wp.atomic_add(boxes, k, 4, 1)
    if depth[i] > 0.0 and depth[i] < 1.0:
        wp.atomic_add(boxes, k, 5, 1)
