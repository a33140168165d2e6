"""A simulated abdomen: every voxel one tissue, every organ of exactly its drawn volume.

An organ is the level set of a smooth field (ellipsoids joined by a soft minimum, bent by low
frequency noise). The level is chosen so that the organ holds exactly the voxels that its
volume asks for, among the voxels no earlier organ has taken; so organs never overlap, and
what is measured can be held against what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import BSpline

SPACING_MM = 3.0
"""Edge of the isotropic voxels the anatomy is built on."""

TISSUES = (
    "air",
    "fat",
    "muscle",
    "cavity",
    "bone",
    "disc",
    "csf",
    "lung",
    "vessel",
    "bowel_wall",
    "bowel_fluid",
    "bowel_gas",
    "stomach",
    "gallbladder",
    "pancreas",
    "adrenal_gland_left",
    "adrenal_gland_right",
    "renal_sinus",
    "liver",
    "kidney_right",
    "kidney_left",
    "spleen",
)
"""Tissues by index; a tissue map holds these indices."""

TISSUE = {name: index for index, name in enumerate(TISSUES)}


@dataclass(frozen=True)
class Anatomy:
    """A tissue map on an isotropic RAS+ grid.

    Attributes
    ----------
    tissues : (X, Y, Z) uint8 array
        Indices into `TISSUES`.
    affine : (4, 4) float array
        Voxel indices to RAS+ millimetres; the body's axis is near the origin.
    """

    tissues: np.ndarray
    affine: np.ndarray


class _Canvas:
    """The grid being filled, its coordinates in mm, and what is still free."""

    def __init__(self, half_extent_mm: tuple[float, float, float], rng: np.random.Generator):
        self.rng = rng
        shape = [2 * int(np.ceil(half / SPACING_MM)) for half in half_extent_mm]
        axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * SPACING_MM for n in shape]
        self.x, self.y, self.z = np.meshgrid(*axes, indexing="ij", sparse=True)
        self.shape = tuple(shape)
        self.affine = np.diag([SPACING_MM] * 3 + [1.0])
        self.affine[:3, 3] = [axis[0] for axis in axes]
        self.tissues = np.zeros(self.shape, np.uint8)
        self.free = np.zeros(self.shape, bool)

    def noise(self, wavelength_mm: float) -> np.ndarray:
        """Smooth noise over the whole grid, near unit variance: random cubic B-splines."""
        weights = [_spline_weights(n, wavelength_mm / SPACING_MM) for n in self.shape]
        field = 1.8 * self.rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
        for axis, weight in enumerate(weights):
            field = np.moveaxis(np.tensordot(weight, field, axes=(1, axis)), 0, axis)
        return np.ascontiguousarray(field)

    def ellipsoid(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        tilt_deg: float = 0.0,
        roll_deg: float = 0.0,
    ) -> np.ndarray:
        """Distance from `centre` in units of `radii`; `tilt` turns x-z, `roll` turns y-z."""
        x, y, z = self.x - centre[0], self.y - centre[1], self.z - centre[2]
        if tilt_deg:
            c, s = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
            x, z = c * x + s * z, c * z - s * x
        if roll_deg:
            c, s = np.cos(np.deg2rad(roll_deg)), np.sin(np.deg2rad(roll_deg))
            y, z = c * y + s * z, c * z - s * y
        squared = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2
        return np.asarray(np.sqrt(squared), dtype=np.float32)

    def within(self, tissue: str, distance_mm: float) -> np.ndarray:
        """Voxels that lie no farther than `distance_mm` from a tissue."""
        is_tissue = self.tissues == TISSUE[tissue]
        reach = int(distance_mm / SPACING_MM)
        (around,) = ndimage.find_objects(is_tissue.view(np.uint8))
        box = tuple(slice(max(0, one.start - reach), one.stop + reach) for one in around)
        near = np.zeros(self.shape, bool)
        near[box] = ndimage.distance_transform_edt(~is_tissue[box], SPACING_MM) <= distance_mm
        return near

    def paint(self, tissue: str, where: np.ndarray) -> None:
        """Give every free voxel of `where` to a tissue."""
        where = where & self.free
        self.tissues[where] = TISSUE[tissue]
        self.free[where] = False

    def grow(self, tissue: str, field: np.ndarray, volume_ml: float) -> None:
        """Give a tissue the free voxels where `field` is smallest, exactly `volume_ml` of them.

        Raises
        ------
        ValueError
            If fewer voxels are free.
        """
        n_voxels = round(volume_ml * 1000 / SPACING_MM**3)
        candidates = np.flatnonzero(self.free)
        if len(candidates) < n_voxels:
            raise ValueError(f"no room for {volume_ml:.0f} mL of {tissue} in this body")
        values = field.ravel()[candidates]
        chosen = candidates[np.argpartition(values, n_voxels - 1)[:n_voxels]]
        self.tissues.ravel()[chosen] = TISSUE[tissue]
        self.free.ravel()[chosen] = False


def _spline_weights(n: int, step: float) -> np.ndarray:
    """Cubic B-spline weights of knots `step` voxels apart at `n` voxels, shape (n, n_knots)."""
    knots = np.arange(-1, int(np.ceil(n / step)) + 2)
    kernel = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
    weights = np.nan_to_num(kernel(np.arange(n)[:, None] / step - knots))
    return np.asarray(weights, dtype=np.float32)


def _join(first: np.ndarray, second: np.ndarray, softness: float = 0.15) -> np.ndarray:
    """Soft minimum of two fields, so that two ellipsoids become one smooth shape."""
    mixed = np.clip(0.5 + 0.5 * (second - first) / softness, 0, 1)
    joined = second * (1 - mixed) + first * mixed - softness * mixed * (1 - mixed)
    return np.asarray(joined, dtype=np.float32)


def build(
    volumes_ml: dict[str, float],
    height_cm: float,
    bmi: float,
    rng: np.random.Generator,
) -> Anatomy:
    """An abdomen whose organs have exactly the given volumes.

    Parameters
    ----------
    volumes_ml : dict
        Volume of ``liver``, ``spleen``, ``kidney_left``, ``kidney_right``, and where given of
        ``pancreas``, ``stomach``, ``gallbladder``, ``adrenal_gland_left`` and ``_right``.
    height_cm, bmi : float
        Body height, and weight / height² in kg/m²: width of the body and thickness of its fat.
    rng : numpy.random.Generator
        Where every shape and place is drawn from.

    Returns
    -------
    Anatomy
    """
    scale = height_cm / 170 * rng.uniform(0.96, 1.04)
    fat_mm = np.clip(6 + (bmi - 18) * 1.5 + rng.normal(0, 3), 4, 45)
    organs_ml = sum(volumes_ml[name] for name in ("liver", "spleen", "kidney_left", "kidney_right"))
    room = max(1.0, (organs_ml / 2100) ** (1 / 3)) * scale
    half_x = 128 * room * rng.uniform(0.97, 1.06)
    half_y = 92 * room * rng.uniform(0.94, 1.1)
    wall_mm = rng.uniform(9, 15)
    margin = fat_mm + wall_mm + 12
    canvas = _Canvas((half_x + margin, half_y + margin, 205 * scale), rng)
    _body(canvas, half_x, half_y, wall_mm, fat_mm, room)
    _spine(canvas, half_y, scale)
    _organs(canvas, volumes_ml, half_x, half_y, room)
    _bowel(canvas, half_x, half_y, scale)
    canvas.paint("cavity", canvas.free.copy())
    return Anatomy(canvas.tissues, canvas.affine)


def _body(
    canvas: _Canvas, half_x: float, half_y: float, wall_mm: float, fat_mm: float, room: float
) -> None:
    rng = canvas.rng
    power = rng.uniform(2.2, 2.8)
    waist = 1 - 0.06 * np.cos(canvas.z / 90 + rng.uniform(-1, 1))
    wobble = 0.02 * canvas.noise(120)

    def inside(extra_mm: float) -> np.ndarray:
        x = np.abs(canvas.x / ((half_x + extra_mm) * waist))
        y = np.abs(canvas.y / ((half_y + extra_mm) * waist))
        return np.asarray((x**power + y**power) ** (1 / power) + wobble < 1)

    skin, muscle, cavity = inside(wall_mm + fat_mm), inside(wall_mm), inside(0)
    canvas.free |= skin
    canvas.paint("fat", skin & ~muscle)
    canvas.paint("muscle", muscle & ~cavity)
    # Extraperitoneal fat: no organ touches the muscles of the wall.
    canvas.paint("fat", cavity & ~inside(-rng.uniform(3, 7)))
    radius = np.sqrt((canvas.x / half_x) ** 2 + (canvas.y / half_y) ** 2)
    dome = (115 * room + rng.normal(0, 8)) * np.ones_like(canvas.z) - 62 * radius**2.2
    dome = dome - 14 * (canvas.x < 0) * np.clip(1 - radius, 0, 1)
    canvas.paint("lung", cavity & (canvas.z > dome))


def _spine(canvas: _Canvas, half_y: float, scale: float) -> None:
    rng = canvas.rng
    back = -half_y + 26 * scale
    body = canvas.ellipsoid((0, back, 0), (22 * scale, 17 * scale, 1e6))
    phase = np.mod(canvas.z + rng.uniform(0, 36), 36 * scale)
    vertebra = body < 1
    canvas.paint("disc", vertebra & (phase < 8 * scale))
    canvas.paint("bone", vertebra)
    canvas.paint("csf", canvas.ellipsoid((0, back - 25 * scale, 0), (9, 8, 1e6)) < 1)
    for side in (-1, 1):
        erector = canvas.ellipsoid((side * 34 * scale, back - 14, 0), (26, 20, 1e6))
        psoas = canvas.ellipsoid((side * 36 * scale, back + 6, -130 * scale), (19, 19, 115))
        canvas.paint("muscle", erector + 0.08 * canvas.noise(50) < 1)
        canvas.paint("muscle", psoas < 1)
    aorta = canvas.ellipsoid((-9, back + 28 * scale, 0), (rng.uniform(8, 12),) * 2 + (1e6,))
    cava = canvas.ellipsoid((15, back + 27 * scale, 0), (rng.uniform(8, 13), 9, 1e6))
    canvas.paint("vessel", (aorta < 1) | (cava < 1))


def _organs(
    canvas: _Canvas, volumes_ml: dict[str, float], half_x: float, half_y: float, room: float
) -> None:
    rng = canvas.rng

    def jitter(sd_mm: float) -> float:
        return float(rng.normal(0, sd_mm))

    kidney_y = -half_y * 0.36
    for side, name in ((1, "kidney_right"), (-1, "kidney_left")):
        centre = (
            side * (half_x * 0.5 + jitter(5)),
            kidney_y + jitter(6),
            (-6 if side > 0 else 8) * room + jitter(14),
        )
        tilt = side * rng.uniform(5, 22)
        roll = rng.uniform(-18, 6)
        long = rng.uniform(50, 60)
        field = canvas.ellipsoid(centre, (27, 24, long), tilt, roll) + 0.07 * canvas.noise(38)
        hilum = (centre[0] - side * 17, centre[1] + 6, centre[2])
        sinus = canvas.ellipsoid(hilum, (15, 10, 22), tilt, roll)
        canvas.paint("renal_sinus", (sinus < rng.uniform(0.6, 1.0)) & (field < 1.05))
        canvas.grow(name, field, volumes_ml[name])
        gland = name.replace("kidney", "adrenal_gland")
        if gland in volumes_ml:
            top = (centre[0] - side * 18, centre[1] + 12, centre[2] + long * 0.95)
            limbs = _join(
                canvas.ellipsoid(top, (4, 12, 14), side * 20, 10),
                canvas.ellipsoid(top, (11, 4, 12), -side * 25, 5),
            )
            canvas.grow(gland, limbs, volumes_ml[gland])
        # The fat around a kidney keeps liver and spleen from touching it.
        canvas.paint("fat", canvas.within(name, rng.uniform(3, 9)))

    spleen_at = (-half_x * 0.74 + jitter(5), -half_y * 0.22 + jitter(8), 52 * room + jitter(12))
    spleen = canvas.ellipsoid(
        spleen_at, (30, rng.uniform(44, 58), rng.uniform(44, 62)), -rng.uniform(5, 25)
    )
    hollow = canvas.ellipsoid((spleen_at[0] + 52, spleen_at[1] + 22, spleen_at[2]), (40, 46, 60))
    spleen = spleen + 0.5 * np.clip(1.1 - hollow, 0, None) + 0.1 * canvas.noise(45)

    right = canvas.ellipsoid(
        (half_x * 0.5 + jitter(5), half_y * 0.12 + jitter(6), 44 * room + jitter(8)),
        (half_x * 0.56, half_y * 0.78, 78 * room * rng.uniform(0.85, 1.2)),
        rng.uniform(-12, 8),
    )
    left = canvas.ellipsoid(
        (-6 + jitter(14), half_y * 0.42 + jitter(6), 62 * room + jitter(8)),
        (half_x * rng.uniform(0.45, 0.75), half_y * 0.42, 42 * room),
        rng.uniform(0, 15),
    )
    liver = _join(right, left + rng.uniform(0, 0.25)) + 0.11 * canvas.noise(55)

    # The smaller organ first: the liver finds its voxels around the others.
    canvas.grow("spleen", spleen, volumes_ml["spleen"])
    canvas.paint("fat", canvas.within("spleen", SPACING_MM))
    if "gallbladder" in volumes_ml:
        at = (half_x * 0.32 + jitter(8), half_y * 0.42 + jitter(8), -10 * room + jitter(8))
        bulb = canvas.ellipsoid(at, (13, 15, 26), 15, 20)
        canvas.grow("gallbladder", bulb, volumes_ml["gallbladder"])
    canvas.grow("liver", liver, volumes_ml["liver"])
    if "stomach" in volumes_ml:
        at = (-half_x * 0.4 + jitter(8), half_y * 0.3 + jitter(8), 52 * room + jitter(10))
        field = canvas.ellipsoid(at, (40, 42, 52), 20) + 0.1 * canvas.noise(50)
        canvas.grow("stomach", field, volumes_ml["stomach"])
    if "pancreas" in volumes_ml:
        at = (-18 + jitter(6), -half_y * 0.02 + jitter(5), 14 * room + jitter(8))
        field = canvas.ellipsoid(at, (62, 14, 15), rng.uniform(8, 25)) + 0.15 * canvas.noise(30)
        canvas.grow("pancreas", field, volumes_ml["pancreas"])


def _bowel(canvas: _Canvas, half_x: float, half_y: float, scale: float) -> None:
    rng = canvas.rng
    low = canvas.z < rng.uniform(5, 40) * scale
    front = canvas.y > -half_y * 0.35
    loops = canvas.noise(rng.uniform(24, 34))
    filling = canvas.noise(70)
    wall = canvas.free & low & front & (np.abs(loops) > 0.35)
    lumen = wall & (np.abs(loops) > 0.6)
    canvas.paint("bowel_gas", lumen & (filling > 0.8))
    canvas.paint("bowel_fluid", lumen & (filling > -0.2))
    canvas.paint("bowel_wall", wall)
