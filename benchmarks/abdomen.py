"""A drawn abdomen with the 13 organs of the Synapse data set: many classes, of which some have very few voxels.

Places and sizes are those of an adult in millimeters, in a volume of 192 x 288 x 336 mm (z up, y to the back, x to the
left). What makes it hard is what makes a CT hard: thin tubes and plates, kidneys and adrenals that differ from their
twins by their side alone (liver and spleen, aorta and vena cava tell which side it is), and tissue values that overlap
among organs, muscle and bowel. Pose, shape, sizes, places and tissue values vary from case to case. Every organ is
there in every case. Mean voxels over the 38 cases of the benchmark, at 6 mm:

    liver 7779, stomach 1454, spleen 742, left kidney 741, right kidney 635, vena cava 361, pancreas 347, aorta 340,
    portal and splenic vein 117, gallbladder 114, esophagus 85, right adrenal 26, left adrenal 25
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from nnunet_ssl.demo.phantom import random_rotation, smooth_field, write_cases

EXTENT_MM = (192.0, 288.0, 336.0)
ORGANS = (
    "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior_vena_cava", "portal_and_splenic_vein", "pancreas", "right_adrenal_gland", "left_adrenal_gland",
)  # fmt: skip
# Mean value of each organ, in their order, and of what lies around them.
_ORGAN_VALUES = (0.68, 0.78, 0.78, 0.10, 0.62, 0.56, 0.44, 0.92, 0.80, 0.86, 0.60, 0.72, 0.72)
_AIR, _FAT, _MUSCLE, _BOWEL, _BONE, _LUNG = 0.02, 0.22, 0.46, 0.42, 1.05, 0.06


def write_abdomen(
    folder: Path, *, labeled: int, test: int, shape: tuple[int, int, int], variation: float = 1.0, seed: int = 0
) -> None:
    """Writes labeled and test cases to ``folder`` (new or empty) in nnU-Net's raw format.

    Args:
        shape: of every case, ``(z, y, x)``; all of them show the same `EXTENT_MM`.
        variation: factor of what tells cases apart, from 0 to 2. The same arguments give the same files.

    Raises InputError if ``folder`` holds something already.
    """
    dataset = {
        "channel_names": {"0": "abdomen"},
        "labels": {"background": 0} | {organ: number for number, organ in enumerate(ORGANS, start=1)},
        "numTraining": labeled,
        "file_ending": ".nii.gz",
    }
    spacing = tuple(extent / n for extent, n in zip(EXTENT_MM, shape, strict=True))

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        return abdomen_case(shape, variation=variation, seed=(seed, number))

    write_cases(Path(folder), "abdomen", {"Tr": labeled, "Ts": test}, draw, dataset, spacing)


def abdomen_case(
    shape: tuple[int, int, int], *, variation: float = 1.0, seed: int | tuple[int, ...] = 0
) -> tuple[np.ndarray, np.ndarray]:
    """One case: the image ``(1, z, y, x)`` and the label map ``(z, y, x)``, both uint8.

    Raises ValueError if ``variation`` does not lie in [0, 2].
    """
    if not 0 <= variation <= 2:
        raise ValueError(f"{variation=} is out of range: it must lie in [0, 2]")
    rng = np.random.default_rng(seed)
    pen = _Pen(shape, variation, rng)
    around, cavity = _surroundings(pen)
    label = np.zeros(shape, dtype=np.uint8)
    for organ, mask in _organs(pen).items():
        label[mask & cavity & (label == 0)] = ORGANS.index(organ) + 1
    return _render(around, label, variation, rng)[None], label


class _Pen:
    """Draws masks on a volume whose millimeters are turned, scaled, shifted and bent, as a patient's pose is."""

    def __init__(self, shape: tuple[int, int, int], variation: float, rng: np.random.Generator) -> None:
        axes = [((np.arange(n) + 0.5) / n - 0.5) * extent for n, extent in zip(shape, EXTENT_MM, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"))
        points = np.tensordot(random_rotation(3, 6 * variation, rng), points, axes=1)
        points /= 1 + variation * rng.uniform(-0.08, 0.08, size=(3, 1, 1, 1))
        points += variation * rng.uniform(-1, 1, size=(3, 1, 1, 1)) * np.reshape((14, 8, 8), (3, 1, 1, 1))
        points += variation * 7 * np.stack([smooth_field(shape, 4, rng) for _ in range(3)])
        self.shape, self.variation, self.rng = shape, variation, rng
        self.points = points
        self._flat = points.reshape(3, -1).T

    def ellipsoid(
        self, center: tuple[float, ...], radii: tuple[float, ...], *, turn: float = 15.0, shift: float = 5.0
    ) -> np.ndarray:
        """Mask of an ellipsoid; its place, radii and orientation vary. `shift` in mm, `turn` in degrees."""
        center = np.array(center) + self._normal(shift, 3)
        radii = np.array(radii) * np.exp(self._normal(0.10, 3))
        rotation = random_rotation(3, turn * min(self.variation, 1), self.rng)
        local = np.tensordot(rotation, self.points - center[:, None, None, None], axes=1)
        return ((local / radii[:, None, None, None]) ** 2).sum(axis=0) < 1

    def tube(self, knots: list[tuple[float, ...]], radii: tuple[float, float], *, shift: float = 5.0) -> np.ndarray:
        """Mask of a tube along a spline through `knots`, whose radius goes from one to the other."""
        knots = np.array(knots) + self._normal(shift / 2, 3) + self._normal(shift / 2, (len(knots), 3))
        t = np.linspace(0, 1, 60)
        line = CubicSpline(np.linspace(0, 1, len(knots)), knots)(t)
        distance, nearest = cKDTree(line).query(self._flat, distance_upper_bound=max(radii) * 2)
        radius = np.interp(t, (0, 1), radii) * np.exp(self._normal(0.08))
        return (distance < np.append(radius, 0)[nearest]).reshape(self.shape)  # one past the end: none is near

    def blobs(self, size: float) -> np.ndarray:
        """A random field of zero mean and unit deviation, whose blobs are about `size` mm."""
        voxel = np.array(EXTENT_MM) / self.shape
        field = gaussian_filter(self.rng.normal(size=self.shape), size / voxel)
        return field / field.std()

    def _normal(self, scale: float, size: int | tuple[int, int] | None = None) -> np.ndarray:
        return self.variation * scale * np.clip(self.rng.normal(size=size), -2, 2)


def _surroundings(pen: _Pen) -> tuple[np.ndarray, np.ndarray]:
    """Values of what is no organ, and the mask of the cavity that organs lie in."""
    rng, (z, y, x) = pen.rng, pen.points
    fat = 14 + pen.variation * rng.uniform(-7, 7)
    skin = (y / 126) ** 2 + (x / 160) ** 2
    wall = ((y + 2) / (126 - fat)) ** 2 + (x / (160 - fat)) ** 2
    cavity = ((y + 2) / (115 - fat)) ** 2 + (x / (149 - fat)) ** 2 < 1
    values = np.where(skin < 1, _FAT, _AIR)
    values[wall < 1] = _MUSCLE
    values[cavity] = _FAT
    muscle = pen.tube([(-96, 62, -38), (0, 62, -34), (96, 70, -40)], (17, 15)) | pen.tube(
        [(-96, 62, 38), (0, 62, 34), (96, 70, 40)], (17, 15)
    )
    crura = pen.tube([(-20, 36, -10), (40, 40, -14)], (6, 8)) | pen.tube([(-20, 40, 22), (40, 44, 24)], (6, 8))
    values[muscle | crura] = _MUSCLE
    # Loops of bowel, many of them in front and below, with walls, and filled with what they happen to hold.
    loops = pen.blobs(9) + np.clip(-y / 60 - z / 80 - 0.2, -1.5, 1.0)
    filling = _BOWEL + 0.12 * pen.blobs(14)
    bowel = cavity & (loops > 0.35)
    values[bowel] = np.where(loops > 0.9, np.clip(filling, _LUNG, 0.7), _BOWEL)[bowel]
    # Nodes and small vessels, which look like the smallest organs.
    for _ in range(rng.integers(8, 15)):
        center = (rng.uniform(-80, 80), rng.uniform(-30, 50), rng.uniform(-95, 95))
        small = pen.ellipsoid(center, tuple(rng.uniform(4, 11, size=3)), turn=90, shift=0)
        values[small & cavity] = rng.choice((0.50, 0.62, 0.72, 0.86))
    dome = 84 - (x / 90) ** 2 * 20 - np.clip(y, 0, None) * 0.35 + pen.variation * rng.uniform(-8, 8)
    lung = cavity & (z > dome) & (np.abs(x) > 32)
    values[lung] = _LUNG
    disc = np.abs((z + rng.uniform(-20, 20)) % 36 - 18) < 4
    spine = pen.tube([(-96, 60, 0), (0, 54, 0), (96, 64, 0)], (20, 20), shift=3)
    values[spine] = np.where(disc, _MUSCLE, _BONE)[spine]
    values[pen.tube([(-96, 88, 0), (0, 86, 0), (96, 92, 0)], (8, 8), shift=3)] = _BONE
    ribs = (np.abs((z + 0.5 * np.abs(x) + rng.uniform(0, 36)) % 36 - 18) < 5) & (z > -40)
    values[ribs & ~cavity & (wall < 1) & (wall > 0.86)] = _BONE
    return values, cavity & ~lung & ~spine


def _organs(pen: _Pen) -> dict[str, np.ndarray]:
    """Masks in the order of precedence: where two overlap, the voxel is the first one's, so small ones come first."""
    liver = pen.ellipsoid((20, -8, -80), (88, 96, 68)) | pen.ellipsoid((38, -56, -10), (38, 38, 70))
    liver &= ~pen.ellipsoid((-40, 10, -10), (60, 55, 42))
    spleen = pen.ellipsoid((32, 30, 104), (54, 48, 30)) & ~pen.ellipsoid((24, 22, 74), (40, 28, 16))
    right = pen.ellipsoid((-38, 46, -62), (52, 27, 26)) & ~pen.ellipsoid((-38, 38, -36), (16, 12, 14))
    left = pen.ellipsoid((-22, 48, 64), (54, 28, 26)) & ~pen.ellipsoid((-22, 40, 38), (16, 12, 14))
    fundus = pen.ellipsoid((46, -4, 70), (40, 36, 32))
    body = pen.tube([(40, -20, 70), (4, -52, 66), (-22, -62, 34), (-18, -52, -6)], (28, 15))
    return {
        "right_adrenal_gland": pen.ellipsoid((24, 38, -34), (15, 13, 4.3), turn=10, shift=3)
        | pen.ellipsoid((22, 44, -40), (13, 11, 4.3), turn=10, shift=2),
        "left_adrenal_gland": pen.ellipsoid((26, 30, 38), (15, 13, 4.3), turn=10, shift=3)
        | pen.ellipsoid((24, 34, 44), (13, 11, 4.3), turn=10, shift=2),
        "portal_and_splenic_vein": pen.tube(
            [(28, 36, 84), (16, 22, 50), (4, 2, 6), (14, -4, -22), (32, -6, -48)], (6.0, 8.5), shift=4
        ),
        "esophagus": pen.tube([(100, 18, 6), (70, 14, 12), (44, 2, 40)], (9.5, 8.5), shift=4),
        "gallbladder": pen.ellipsoid((-28, -42, -58), (27, 15, 15), shift=8),
        "aorta": pen.tube([(-100, 26, 6), (0, 22, 12), (100, 34, 14)], (10, 12.5), shift=4),
        "inferior_vena_cava": pen.tube([(-100, 26, -20), (0, 22, -24), (72, 12, -30)], (12, 12), shift=4),
        "pancreas": pen.tube([(22, 26, 86), (8, 10, 48), (0, -14, 8), (-22, -10, -30)], (11, 15), shift=6),
        "right_kidney": right,
        "left_kidney": left,
        "spleen": spleen,
        "stomach": fundus | body,
        "liver": liver,
    }


def _render(around: np.ndarray, label: np.ndarray, variation: float, rng: np.random.Generator) -> np.ndarray:
    """The image ``(z, y, x)``, uint8: tissue values, partial volume, texture, bias field, noise, gain."""
    values = np.array(_ORGAN_VALUES) + variation * rng.normal(scale=0.025, size=len(ORGANS))
    # The phase of the contrast agent brightens vessels and kidneys together.
    enhanced = [ORGANS.index(organ) for organ in ORGANS if "vein" in organ or "kidney" in organ or "cava" in organ]
    values[enhanced] += variation * rng.uniform(-0.07, 0.07)
    values[ORGANS.index("aorta")] += variation * rng.uniform(-0.07, 0.14)
    # What a stomach holds is another thing in every patient.
    values[ORGANS.index("stomach")] += variation * rng.uniform(-0.14, 0.14)
    image = around.copy()
    image[label > 0] = values[label[label > 0] - 1]
    image += 0.03 * gaussian_filter(rng.normal(size=image.shape), 1.2) * 6 * (image > 0.1)
    image = gaussian_filter(image, 0.55)
    image *= np.exp(variation * 0.06 * smooth_field(image.shape, 3, rng))
    image += rng.normal(scale=0.025, size=image.shape)
    return np.clip(215 * rng.uniform(0.85, 1.0) * image, 0, 255).astype(np.uint8)
