"""The measures against closed forms and a slow restatement, and what the evaluation does with odd folders."""

import itertools
import json
import math

import numpy as np
import pytest
import typer
from label_files import write, write_dataset_json
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from typer.testing import CliRunner

from nnunet_ssl.cli.evaluate import evaluate
from nnunet_ssl.errors import InputError
from nnunet_ssl.results.evaluation import METRICS, evaluate_folders, measure_masks, read_labels


def cube(shape, start, size):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + size) for a in start)] = True
    return mask


def ball(radius, size):
    grid = np.indices((size,) * 3) - size // 2
    return (grid**2).sum(axis=0) <= radius**2


# -- measures ----------------------------------------------------------------------------------------------------


def test_cubes_shifted_by_three_voxels():
    # 488 surface voxels. In the prediction: rings of 36 at distances 1 and 2, a face of 100 at distance 3, and inside
    # the reference a face whose 64 inner voxels are min(3, way to the side wall) away: 28 * 1 + 20 * 2 + 16 * 3.
    reference, prediction = cube((20, 14, 14), (2, 2, 2), 10), cube((20, 14, 14), (5, 2, 2), 10)
    values = measure_masks(reference, prediction, (1, 1, 1))
    assert values["dice"] == pytest.approx(0.7)
    assert values["jaccard"] == pytest.approx(700 / 1300)
    assert values["hd95_mm"] == values["hd95_voxel"] == 3
    assert values["asd_mm"] == pytest.approx((36 + 72 + 300 + 116) / 488)
    assert values["asd_voxel"] == pytest.approx(values["asd_mm"])


def test_cubes_with_anisotropic_spacing():
    # The same cubes with 2 mm along the shift: way to the side wall now always the shorter one, 28 + 40 + 36 + 16.
    reference, prediction = cube((20, 14, 14), (2, 2, 2), 10), cube((20, 14, 14), (5, 2, 2), 10)
    values = measure_masks(reference, prediction, (2, 1, 1))
    assert values["hd95_mm"] == 6
    assert values["asd_mm"] == pytest.approx((72 + 144 + 600 + 120) / 488)
    assert values["hd95_voxel"] == 3
    assert values["asd_voxel"] == pytest.approx((36 + 72 + 300 + 116) / 488)


def test_spacing_belongs_to_its_axis():
    def single(index):
        mask = np.zeros((9, 9, 9), dtype=bool)
        mask[index] = True
        return mask

    for other, distance in (((6, 2, 2), 4 * 5.0), ((2, 6, 2), 4 * 0.5), ((2, 2, 6), 4 * 0.25)):
        values = measure_masks(single((2, 2, 2)), single(other), (5, 0.5, 0.25))
        assert values["hd95_mm"] == values["asd_mm"] == pytest.approx(distance)
        assert values["hd95_voxel"] == values["asd_voxel"] == 4
        assert values["dice"] == 0


def test_concentric_balls():
    small, large = ball(8, 31), ball(12, 31)
    values = measure_masks(large, small, (0.5, 0.5, 0.5))
    assert values["dice"] == pytest.approx(2 * 8**3 / (8**3 + 12**3), abs=0.01)
    assert values["jaccard"] == pytest.approx((8 / 12) ** 3, abs=0.01)
    assert values["asd_voxel"] == pytest.approx(4, abs=0.3)
    assert values["hd95_voxel"] == pytest.approx(4, abs=0.5)
    assert values["asd_mm"] == pytest.approx(values["asd_voxel"] / 2)
    assert values["hd95_mm"] == pytest.approx(values["hd95_voxel"] / 2)


def test_asd_is_from_prediction_to_reference():
    # A far speck in the prediction is far from the reference, but the reference is nowhere far from the prediction.
    reference = cube((12, 12, 40), (3, 3, 3), 6)
    prediction = reference.copy()
    prediction[5, 5, 38] = True
    surface = 6**3 - 4**3
    assert measure_masks(reference, prediction, (1, 1, 1))["asd_mm"] == pytest.approx(30 / (surface + 1))
    assert measure_masks(prediction, reference, (1, 1, 1))["asd_mm"] == 0


def test_equal_masks_and_masks_that_fill_the_image():
    for mask in (ball(5, 15), np.ones((4, 5, 6), dtype=bool)):
        values = measure_masks(mask, mask, (3, 1, 1))
        assert [values[m] for m in METRICS] == [1, 1, 0, 0, 0, 0]


def slow_measures(reference, prediction, spacing):
    """HD95 and ASD from all pairs of surface voxels, with loops."""

    def surface(mask):
        points = []
        for voxel in np.argwhere(mask):
            for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
                neighbor = voxel.copy()
                neighbor[axis] += step
                inside = 0 <= neighbor[axis] < mask.shape[axis]
                if not inside or not mask[tuple(neighbor)]:
                    points.append([v * s for v, s in zip(voxel, spacing, strict=True)])
                    break
        return points

    def directed(points, others):
        return [min(math.dist(p, q) for q in others) for p in points]

    surface_reference, surface_prediction = surface(reference), surface(prediction)
    to_reference = directed(surface_prediction, surface_reference)
    pooled = sorted(to_reference + directed(surface_reference, surface_prediction))
    rank = 0.95 * (len(pooled) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(pooled) - 1)
    return pooled[low] + (rank - low) * (pooled[high] - pooled[low]), sum(to_reference) / len(to_reference)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "spacing"), [((7, 8, 9), (2.5, 0.8, 1.1)), ((12, 15), (0.7, 1.9))])
def test_distances_equal_the_slow_restatement(seed, shape, spacing):
    rng = np.random.default_rng(seed)
    reference, prediction = rng.random(shape) < 0.3, rng.random(shape) < 0.15
    reference[tuple(slice(2, 6) for _ in shape)] = True  # something with an inside
    values = measure_masks(reference, prediction, spacing)
    for unit, grid in (("mm", spacing), ("voxel", (1,) * len(shape))):
        hd95, asd = slow_measures(reference, prediction, grid)
        assert values[f"hd95_{unit}"] == pytest.approx(hd95, rel=1e-5)
        assert values[f"asd_{unit}"] == pytest.approx(asd, rel=1e-5)


# -- folders -----------------------------------------------------------------------------------------------------


def test_absent_and_missed_classes(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1, "b": 2, "c": 3})
    shape = (8, 8, 8)
    a, b = cube(shape, (0, 0, 0), 3), cube(shape, (4, 4, 4), 3)
    write(reference, "case1.nii.gz", a + 2 * b)
    write(prediction, "case1.nii.gz", a)  # b missed
    write(reference, "case2.nii.gz", a)  # b absent
    write(prediction, "case2.nii.gz", 1 * a + 2 * b)  # b predicted all the same
    result = evaluate_folders(reference, prediction)

    assert result["absent"] == {"a": [], "b": ["case2"], "c": ["case1", "case2"]}
    assert result["spurious"] == {"a": [], "b": ["case2"], "c": []}
    assert result["missed"] == {"a": 0, "b": 1, "c": 0}
    dice, hd95 = result["metrics"]["dice"], result["metrics"]["hd95_mm"]
    assert dice["per_case"] == {
        "case1": {"a": 1.0, "b": 0.0, "c": None},
        "case2": {"a": 1.0, "b": None, "c": None},
    }
    assert dice["per_class"] == {"a": 1.0, "b": 0.0, "c": None}
    assert dice["mean"] == 0.5
    assert result["metrics"]["jaccard"]["per_case"]["case1"]["b"] == 0.0
    assert hd95["per_class"] == {"a": 0.0, "b": None, "c": None}
    assert hd95["mean"] == 0.0
    assert set(result["metrics"]) == {"dice", "jaccard", "hd95_mm", "asd_mm", "hd95_voxel", "asd_voxel"}
    json.dumps(result, allow_nan=False)


def test_a_class_that_was_not_annotated_is_told_from_one_that_is_absent(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1, "b": 2})
    file = prediction / "dataset.json"
    declared = {"not_annotated": {"case2": ["b"], "case3": ["a"], "elsewhere": ["a"]}}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | declared), encoding="utf-8")
    shape = (8, 8, 8)
    a, b = cube(shape, (0, 0, 0), 3), cube(shape, (4, 4, 4), 3)
    for case, drawn in (("case1", a), ("case2", a), ("case3", a + 2 * b)):
        write(reference, f"{case}.nii.gz", drawn)
        write(prediction, f"{case}.nii.gz", a + 2 * b)
    result = evaluate_folders(reference, prediction)
    assert result["absent"] == {"a": [], "b": ["case1"]}
    assert result["not_annotated"] == {"a": [], "b": ["case2"]}  # the reference of case3 has an a
    assert result["spurious"] == {"a": [], "b": ["case1"]}  # of case2 it cannot be told
    assert result["metrics"]["dice"]["per_case"]["case2"] == {"a": 1.0, "b": None}
    assert result["metrics"]["dice"]["per_class"] == {"a": 1.0, "b": 1.0}


def test_mean_is_over_classes_of_class_means(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1, "b": 2})
    shape = (6, 6, 12)
    a, b = cube(shape, (1, 1, 1), 4), cube(shape, (1, 1, 7), 4)
    for case in ("1", "2", "3"):
        write(reference, f"{case}.nii.gz", a + (2 * b if case == "1" else 0))
        write(prediction, f"{case}.nii.gz", a)
    assert evaluate_folders(reference, prediction)["metrics"]["dice"]["mean"] == 0.5  # over cases it would be 5 / 6


def test_regions_are_unions_and_may_overlap(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "whole": [1, 2], "core": 2})
    shape = (5, 5, 10)
    edge, core = cube(shape, (0, 0, 0), 4), cube(shape, (0, 0, 5), 4)
    write(reference, "x.nii.gz", edge + 2 * core)
    write(prediction, "x.nii.gz", 2 * edge + 1 * core)  # labels exchanged: the union is right, the core is not
    dice = evaluate_folders(reference, prediction)["metrics"]["dice"]["per_class"]
    assert dice == {"whole": 1.0, "core": 0.0}


def test_ignored_voxels_count_nowhere(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1, "ignore": 2})
    shape = (6, 6, 12)
    truth = cube(shape, (1, 1, 1), 4).astype(np.uint8)
    truth[:, :, 7:] = 2
    guess = cube(shape, (1, 1, 1), 4) | cube(shape, (1, 1, 8), 4)  # the second cube lies in the ignored part
    write(reference, "x.nii.gz", truth)
    write(prediction, "x.nii.gz", guess)
    result = evaluate_folders(reference, prediction)
    assert list(result["metrics"]["dice"]["per_class"]) == ["a"]
    assert [result["metrics"][m]["mean"] for m in METRICS] == [1, 1, 0, 0, 0, 0]


def test_spacing_of_the_file_and_two_processes(folders):
    reference, prediction = folders
    write_dataset_json(reference.parent, {"background": 0, "a": 1})  # found beside the reference folder
    for case, shift in (("p", 0), ("q", 3)):
        write(reference, f"{case}.nii.gz", cube((20, 14, 14), (2, 2, 2), 10), spacing=(2, 1, 1))
        write(prediction, f"{case}.nii.gz", cube((20, 14, 14), (2 + shift, 2, 2), 10), spacing=(2, 1, 1))
    result = evaluate_folders(reference, prediction, processes=2)
    assert result == evaluate_folders(reference, prediction, processes=1)
    assert list(result["metrics"]["hd95_mm"]["per_case"]) == ["p", "q"]
    assert result["metrics"]["hd95_mm"]["per_case"]["q"] == {"a": 6}
    assert result["metrics"]["hd95_voxel"]["per_case"]["q"] == {"a": 3}


def test_png_and_tiff(tmp_path):
    square = cube((1, 20, 20), (0, 4, 4), 1)
    square[0, 4:12, 4:12] = True
    moved = np.roll(square, 3, axis=1)
    stack, moved_stack = cube((9, 14, 14), (1, 2, 2), 6), cube((9, 14, 14), (1, 5, 2), 6)
    for name, writer, ending, pair, spacing, expected in (
        ("png", NaturalImage2DIO(), ".png", (square, moved), (999, 1, 1), (3, 3)),
        ("tif2d", NaturalImage2DIO(), ".tif", (square, moved), (999, 1, 1), (3, 3)),
        ("tif3d", Tiff3DIO(), ".tif", (stack, moved_stack), (4.0, 0.5, 0.5), (1.5, 3)),
    ):
        reference, prediction = tmp_path / name / "labelsTs", tmp_path / name / "out"
        write_dataset_json(prediction, {"background": 0, "a": 1}, ending)
        reference.mkdir()
        writer.write_seg(pair[0], str(reference / f"x{ending}"), {"spacing": spacing})
        writer.write_seg(pair[1], str(prediction / f"x{ending}"), {"spacing": spacing})
        metrics = evaluate_folders(reference, prediction)["metrics"]
        assert (metrics["hd95_mm"]["mean"], metrics["hd95_voxel"]["mean"]) == expected, name


def test_two_dimensional_nifti_has_no_surface_across_the_slice(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1})
    full = np.ones((9, 9), dtype=np.uint8)
    hollow = full.copy()
    hollow[4, 4] = 0
    write(reference, "x.nii.gz", full, spacing=(2, 2))
    write(prediction, "x.nii.gz", hollow, spacing=(2, 2))
    # The four neighbors of the hole are 3 voxels from the image's edge, the 32 edge voxels coincide.
    asd = evaluate_folders(reference, prediction)["metrics"]["asd_mm"]["mean"]
    assert asd == pytest.approx(4 * 3 * 2 / 36)


def test_all_faults_in_one_error(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "a": 1})
    good = cube((6, 6, 6), (1, 1, 1), 3)
    for case in ("fine", "lost", "shape", "spacing", "value", "broken"):
        write(reference, f"{case}.nii.gz", good)
    write(prediction, "fine.nii.gz", good)
    write(prediction, "shape.nii.gz", good[:5])
    write(prediction, "spacing.nii.gz", good, spacing=(1, 1, 2))
    write(prediction, "value.nii.gz", 255 * good)
    (prediction / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        evaluate_folders(reference, prediction)
    message = str(error.value)
    for part in (
        "lost.nii.gz: not in",
        "shape.nii.gz: the prediction has 6 x 6 x 5 voxels (6 x 6 x 5 mm) but its reference 6 x 6 x 6 voxels",
        "spacing.nii.gz: the prediction stands up to 5.5 voxels (5.5 mm) from its reference: "
        "another spacing, 2 x 1 x 1 mm and not 1 x 1 x 1",
        "255",
        "broken.nii.gz: cannot be read",
    ):
        assert part in message
    assert "fine.nii.gz" not in message


def test_folders_and_dataset_json_that_are_not_there(folders):
    reference, prediction = folders
    with pytest.raises(InputError, match="labelsTs is not a folder"):
        evaluate_folders(reference, prediction)
    write(reference, "x.nii.gz", ball(2, 5))
    write(prediction, "x.nii.gz", ball(2, 5))
    with pytest.raises(InputError, match="--dataset-json"):
        evaluate_folders(reference, prediction)
    write_dataset_json(prediction, {"background": 0, "a": 1}, ending=".nrrd")
    with pytest.raises(InputError, match=r"no \.nrrd file"):
        evaluate_folders(reference, prediction)
    (prediction / "dataset.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not valid JSON"):
        evaluate_folders(reference, prediction)


def test_labels_of_the_old_format_are_refused(tmp_path):
    with pytest.raises(InputError, match="must map names to integers"):
        read_labels({"labels": {"0": "background", "1": "liver"}, "file_ending": ".nii.gz"}, tmp_path)


def test_command_prints_a_table_and_writes_json(folders):
    reference, prediction = folders
    write_dataset_json(prediction, {"background": 0, "left [1]": 1, "never": 2})
    write(reference, "x.nii.gz", cube((20, 14, 14), (2, 2, 2), 10))
    write(prediction, "x.nii.gz", cube((20, 14, 14), (5, 2, 2), 10))
    app = typer.Typer()
    app.command()(evaluate)
    outcome = CliRunner().invoke(app, [str(reference), str(prediction), "-np", "1"], env={"COLUMNS": "80"})
    assert outcome.exit_code == 0, outcome.output
    for title in ("Jaccard", "absent", "missed"):
        assert title in outcome.output  # not shortened to "Jacca..." on a narrow terminal
    assert "left [1]" in outcome.output
    assert "0.7000" in outcome.output
    assert "never" in outcome.output
    assert json.loads((prediction / "metrics.json").read_text(encoding="utf-8"))["metrics"]["dice"][
        "mean"
    ] == pytest.approx(0.7)

    elsewhere = prediction.parent / "tables" / "m.json"
    outcome = CliRunner().invoke(app, [str(reference), str(prediction), "-o", str(elsewhere)])
    assert outcome.exit_code == 0, outcome.output
    assert [f.name for f in elsewhere.parent.iterdir()] == ["m.json"]
