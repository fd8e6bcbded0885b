"""A phantom dataset in nnU-Net's raw format: a few labeled, many unlabeled and some test cases, made in seconds.

Each case is a body with up to four organs of unequal size and contrast. Pose, shape and intensities vary from case to
case by a random similarity transform, a smooth random deformation, jittered tissue values and a smooth bias field;
noise and a few unlabeled blobs that resemble organs are added. Organs that are not among the classes asked for stay in
the image, unlabeled.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from nnunet_ssl.errors import InputError

ORGANS = ("liver", "kidney", "vessel", "gland")
SPACING_MM = 2.0

# Mean intensity of each tissue, one row per channel (more channels repeat the rows with other noise and bias).
# In the second row the kidney differs little from the body.
_TISSUES = ("outside", "body", *ORGANS)
_INTENSITY = np.array([[0.03, 0.35, 0.47, 0.58, 0.72, 0.95], [0.05, 0.62, 0.45, 0.54, 0.20, 0.82]])


def write_phantom(
    folder: Path,
    *,
    labeled: int = 4,
    unlabeled: int = 24,
    test: int = 6,
    shape: tuple[int, ...] = (48, 64, 64),
    classes: int = 5,
    channels: int = 1,
    regions: bool = False,
    variation: float = 1.0,
    seed: int = 0,
) -> None:
    """Writes a phantom dataset to ``folder`` (new or empty), e.g. ``nnUNet_raw/Dataset001_Phantom``.

    ``imagesTr``/``labelsTr`` hold the labeled cases, ``imagesUnlabeled`` the unlabeled ones, ``imagesTs``/``labelsTs``
    the test cases, numbered on in this order. The same arguments give the same files.

    Args:
        shape: of every case, ``(z, y, x)`` at 2 mm as ``.nii.gz``, or ``(y, x)`` as ``.png``.
        classes: background included, 2 to 5: liver (about 6 % of a volume), kidney (2 %), vessel (1 %), gland (0.5 %).
        channels: images per case.
        regions: region labels instead: ``organs`` is the union of all, the next region all but the liver, and so on
            (at least 3 classes). The label files are the same.
        variation: factor of what tells cases apart: turn, size, place, deformation, tissue values, bias field. From 0
            to 2; the larger, the less a few labeled cases tell of the others.

    Raises InputError if ``folder`` holds something already.
    """
    folder = Path(folder)
    if not 2 <= classes <= len(ORGANS) + 1 or (regions and classes < 3) or len(shape) not in (2, 3) or channels < 1:
        raise ValueError(f"no such phantom: {classes=}, {regions=}, {shape=}, {channels=}")
    if not 0 <= variation <= 2:
        raise ValueError(f"{variation=} is out of range: it must lie in [0, 2]")
    ending = ".nii.gz" if len(shape) == 3 else ".png"

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        return phantom_case(shape, classes=classes, channels=channels, variation=variation, seed=(seed, number))

    parts = {"Tr": labeled, "Unlabeled": unlabeled, "Ts": test}
    spacing = (SPACING_MM,) * len(shape)
    write_cases(folder, "phantom", parts, draw, dataset_json(classes, channels, regions, labeled, ending), spacing)


def write_cases(
    folder: Path,
    name: str,
    parts: dict[str, int],
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    dataset: dict,
    spacing: tuple[float, ...],
) -> None:
    """Writes a drawn dataset to ``folder`` (new or empty): all of it or nothing.

    Args:
        name: the cases are called ``name_000`` and so on.
        parts: cases of ``Tr``, ``Unlabeled`` and ``Ts``, which are numbered on in this order.
        draw: gives the image ``(C, *spatial)`` and the label map ``(*spatial)`` of a number.
        dataset: the content of ``dataset.json``.
        spacing: mm, in the order of the arrays' axes.

    Raises InputError if ``folder`` holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: the phantom needs a new folder.")
    partial, ending = folder.with_name(f".{folder.name}.{os.getpid()}.partial"), dataset["file_ending"]
    for part in parts:
        (partial / f"images{part}").mkdir(parents=True)
        if part != "Unlabeled":
            (partial / f"labels{part}").mkdir()
    for number, part in enumerate(part for part, count in parts.items() for _ in range(count)):
        image, label = draw(number)
        case = f"{name}_{number:03d}"
        for channel, values in enumerate(image):
            _write(values, partial / f"images{part}" / f"{case}_{channel:04d}{ending}", spacing)
        if part != "Unlabeled":
            _write(label, partial / f"labels{part}" / f"{case}{ending}", spacing)
    (partial / "dataset.json").write_text(json.dumps(dataset, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder)


def phantom_case(
    shape: tuple[int, ...],
    *,
    classes: int = 5,
    channels: int = 1,
    variation: float = 1.0,
    seed: int | tuple[int, ...] = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """One case: the image ``(C, *spatial)`` and the label map ``(*spatial)``, both uint8."""
    rng = np.random.default_rng(seed)
    tissue, distractors = _draw_tissues(shape, variation, rng)
    intensities = [_INTENSITY[channel % len(_INTENSITY)] for channel in range(channels)]
    image = np.stack([_render(tissue, distractors, intensity, variation, rng) for intensity in intensities])
    # Tissue numbers are outside 0, body 1, organs 2...; labels are background 0, organs 1...
    label = np.clip(tissue.astype(np.int16) - 1, 0, None)
    label[label >= classes] = 0
    return image, label.astype(np.uint8)


def dataset_json(classes: int, channels: int, regions: bool, labeled: int, ending: str) -> dict:
    """nnU-Net's ``dataset.json`` of the phantom."""
    organs = ORGANS[: classes - 1]
    if regions:
        # Nested, so that painting the regions in this order gives back the label map.
        foreground = {
            "organs" if i == 0 else f"organs_from_{name}": list(range(i + 1, classes)) for i, name in enumerate(organs)
        }
    else:
        foreground = {name: i + 1 for i, name in enumerate(organs)}
    dataset = {
        "channel_names": {str(c): f"phantom_{c}" for c in range(channels)},
        "labels": {"background": 0} | foreground,
        "numTraining": labeled,
        "file_ending": ending,
    }
    if regions:
        dataset["regions_class_order"] = list(range(1, classes))
    return dataset


def smooth_field(shape: tuple[int, ...], nodes: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field ``(*spatial)``: a cubic spline through ``nodes`` standard normal values per axis."""
    field = rng.normal(size=(nodes,) * len(shape))
    for axis, n in enumerate(shape):
        field = CubicSpline(np.linspace(0, 1, nodes), field, axis=axis, bc_type="natural")(np.linspace(0, 1, n))
    return field


def random_rotation(dimensions: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix: a uniform angle of at most ``degrees`` in each plane of two axes."""
    rotation = np.eye(dimensions)
    for i in range(dimensions):
        for j in range(i + 1, dimensions):
            angle = np.deg2rad(rng.uniform(-degrees, degrees))
            plane = np.eye(dimensions)
            plane[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
            rotation = rotation @ plane
    return rotation


def _draw_tissues(
    shape: tuple[int, ...], variation: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[np.ndarray, int]]]:
    """The tissue map ``(*spatial)`` and the distractors: masks with the tissue whose intensity each one borrows."""
    dimensions = len(shape)
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))  # -1 .. 1 along every axis
    rotation = random_rotation(dimensions, 15 * variation, rng)
    points = np.tensordot(rotation, points, axes=1) / (0.98 + variation * rng.uniform(-0.10, 0.10))
    points += variation * rng.uniform(-0.08, 0.08, size=(dimensions,) + (1,) * dimensions)
    points += variation * 0.07 * np.stack([smooth_field(shape, 4, rng) for _ in range(dimensions)])

    def ellipsoid(center: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        """Mask; center and radii are given as (z, y, x), of which 2D takes the last two."""
        terms = [((p - c) / r) ** 2 for p, c, r in zip(points, center[-dimensions:], radii[-dimensions:], strict=True)]
        return sum(terms) < 1

    def vary(radii: tuple[float, ...], spread: float = 0.12) -> tuple[float, ...]:
        return tuple(r * rng.uniform(1 - spread, 1 + spread) for r in radii)

    body = ellipsoid((0, 0, 0), vary((1.2, 0.80, 0.88), 0.04))
    liver = ellipsoid((0, -0.15, -0.42), vary((0.75, 0.48, 0.40)))
    liver &= ~ellipsoid((0, 0.25, -0.05), vary((0.6, 0.35, 0.35)))
    kidney = ellipsoid((0.05, 0.22, 0.48), vary((0.55, 0.32, 0.22)))
    kidney &= ~ellipsoid((0.05, 0.14, 0.30), vary((0.28, 0.18, 0.16)))
    bend = 0.10 * np.sin(2.5 * points[0] + rng.uniform(0, 2 * np.pi)) if dimensions == 3 else 0.0
    radius = 0.12 * rng.uniform(0.85, 1.15)
    vessel = (points[-2] - 0.38 - bend) ** 2 + (points[-1] - bend) ** 2 < radius**2
    place = np.array((0.0, -0.38, 0.28)) + rng.uniform(-0.12, 0.12, size=3)
    # Radii for about 0.5 % of the voxels of a volume, 1 % of the pixels of an image.
    gland = ellipsoid(tuple(place), vary((0.24, 0.20, 0.20) if dimensions == 3 else (0.11, 0.12), 0.2))

    tissue = body.astype(np.uint8)
    for number, organ in enumerate((liver, kidney, vessel, gland), start=_TISSUES.index("liver")):
        tissue[organ & body & (tissue == 1)] = number

    distractors = []
    for _ in range(rng.integers(2, 5)):
        blob = ellipsoid(tuple(rng.uniform(-0.7, 0.7, size=3)), tuple(rng.uniform(0.08, 0.2, size=3)))
        # None is like the gland, which is as small as they are and could not be told from them.
        distractors.append((blob & (tissue == 1), int(rng.integers(2, _TISSUES.index("gland")))))
    return tissue, distractors


def _render(
    tissue: np.ndarray,
    distractors: list[tuple[np.ndarray, int]],
    intensity: np.ndarray,
    variation: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """One channel ``(*spatial)``, uint8: tissue values, partial volume, bias field, noise, gain."""
    values = intensity + variation * rng.normal(scale=0.025, size=len(intensity)) * (intensity > 0.1)
    image = values[tissue]
    for mask, like in distractors:
        image[mask] = values[like] + rng.normal(scale=0.03)
    image = gaussian_filter(image, 0.7)
    image *= np.exp(variation * 0.12 * smooth_field(tissue.shape, 3, rng))
    noise = rng.normal(scale=0.05, size=(2, *tissue.shape))
    image = np.hypot(image + noise[0], noise[1])  # Rician, as in magnitude MR
    gain = rng.uniform(0.75, 1.0)
    return np.clip(215 * gain * image, 0, 255).astype(np.uint8)


def _write(array: np.ndarray, file: Path, spacing: tuple[float, ...]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(file))
