"""Plans from the labels of one fold: nnU-Net's own, as if the hidden labels did not exist."""

import json
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
import typer
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncM,
)
from typer.testing import CliRunner
from workbench import plan_fast

from nnunet_ssl.cli.plan import plan
from nnunet_ssl.demo.phantom import write_phantom
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation.planning import (
    hidden_labels_in_plans,
    hidden_labels_of_fold,
    hidden_labels_seen,
    in_words,
    plan_fold,
)

NAME = "Dataset007_Phantom"
CASES = [f"phantom_{number:03d}" for number in range(5)]
SPLITS = [
    {"train": CASES[:1], "val": CASES[1:3], "unlabeled": CASES[3:]},
    {"train": CASES[3:4], "val": CASES[4:], "unlabeled": CASES[:3]},
]


def label(raw: Path, case: str) -> Path:
    return raw / "labelsTr" / f"{case}.nii.gz"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    plan_fast(monkeypatch)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    """Five CT cases, of which the last two differ in grey levels, spacing and size."""
    raw = tmp_path_factory.mktemp("planning") / NAME
    write_phantom(raw, labeled=5, unlabeled=0, test=0, shape=(20, 28, 32), classes=3)
    for case in CASES[3:]:
        file = raw / "imagesTr" / f"{case}_0000.nii.gz"
        for path, factor in ((file, 3.0), (label(raw, case), 1)):
            image = sitk.ReadImage(str(path))[:20, :16, :] * factor
            image.SetSpacing((1.5, 1.5, 3.0))
            sitk.WriteImage(image, str(path))
    content = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    (raw / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "CT"}}), encoding="utf-8")
    return raw


def use(root: Path, phantom: Path, monkeypatch) -> tuple[Path, Path]:
    for kind in ("raw", "preprocessed", "results"):
        (root / kind).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{kind}", str(root / kind))
    return shutil.copytree(phantom, root / "raw" / NAME), root / "preprocessed" / NAME


@pytest.fixture
def dataset(phantom, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Raw and preprocessed folder, with two folds and hidden labels that no reader can read."""
    raw, base = use(tmp_path / "ours", phantom, monkeypatch)
    base.mkdir()
    (base / "splits_final.json").write_text(json.dumps(SPLITS), encoding="utf-8")
    for case in SPLITS[0]["unlabeled"]:
        label(raw, case).write_bytes(b"not to be opened")
    return raw, base


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("planner", [ExperimentPlanner, nnUNetPlannerResEncM])
def test_plans_are_nnunets_of_a_dataset_without_the_hidden_cases(dataset, phantom, planner, monkeypatch, tmp_path):
    raw, base = dataset
    before = everything_below(tmp_path)
    file = plan_fold(7, 0, planner.__name__, processes=1)
    after = everything_below(tmp_path)
    assert {*after} - {*before} == {str(file)}
    assert {name: after[name] for name in before} == before  # neither fingerprint nor other plans nor dataset.json
    ours = read(file)
    assert ours.pop("nnunet_ssl") == {"fold": 0, "planned_on": CASES[:3]}

    raw, base = use(tmp_path / "theirs", phantom, monkeypatch)
    for case in CASES[3:]:
        label(raw, case).unlink()
        (raw / "imagesTr" / f"{case}_0000.nii.gz").unlink()
    content = read(raw / "dataset.json") | {"numTraining": 3}
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    DatasetFingerprintExtractor(7, 1).run()
    planner(7, plans_name=ours["plans_name"]).plan_experiment()
    theirs = read(base / file.name)
    for name, configuration in theirs["configurations"].items():
        configuration["data_identifier"] = f"{ours['plans_name']}_{name}"  # ResEnc planners name that of nnUNetPlans
    assert ours == theirs


def test_hidden_labels_change_nnunets_plans_and_not_ours(dataset, phantom, monkeypatch, tmp_path):
    """The guard of the test above: with the hidden cases, intensities and target spacing would be others."""
    ours = read(plan_fold(7, 0, processes=1))
    _, base = use(tmp_path / "theirs", phantom, monkeypatch)
    DatasetFingerprintExtractor(7, 1).run()
    ExperimentPlanner(7).plan_experiment()
    theirs = read(base / "nnUNetPlans.json")
    key = "foreground_intensity_properties_per_channel"
    assert theirs[key]["0"]["max"] > 1.3 * ours[key]["0"]["max"]
    split = SPLITS[0]
    assert hidden_labels_seen(theirs, split, base) == CASES[3:]
    assert hidden_labels_seen(ours, split, base) == []
    assert hidden_labels_seen(ours, SPLITS[1], base) == CASES[:3]  # plans of fold 0 in fold 1


def test_the_other_form_of_dataset_json(dataset):
    raw, _ = dataset
    content = read(raw / "dataset.json")
    content["dataset"] = {
        case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"} for case in CASES
    }
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    plans = read(plan_fold(7, 0, plans_name="mine", overwrite_target_spacing=(4.0, 3.0, 3.0), processes=1))
    assert plans["plans_name"] == "mine"
    assert plans["configurations"]["3d_fullres"]["data_identifier"] == "mine_3d_fullres"
    assert plans["configurations"]["3d_fullres"]["spacing"] == [4.0, 3.0, 3.0]
    assert plans["nnunet_ssl"]["planned_on"] == CASES[:3]


def test_other_plans_of_the_name_are_kept(dataset):
    _, base = dataset
    file = plan_fold(7, 0, processes=1)
    content = file.read_bytes()
    assert plan_fold(7, 0, processes=1) == file and file.read_bytes() == content
    with pytest.raises(InputError, match="nnUNetPlans_fold0.json exists already with other content"):
        plan_fold(7, 0, gpu_memory_target=1.0, overwrite_target_spacing=(4, 4, 4), processes=1)
    assert file.read_bytes() == content


def damage(raw: Path, base: Path, what: str) -> dict:
    splits = json.loads(json.dumps(SPLITS))
    if what == "no splits":
        (base / "splits_final.json").unlink()
        return {}
    if what == "no label":
        label(raw, CASES[0]).unlink()
    if what == "no image":
        (raw / "imagesTr" / f"{CASES[1]}_0000.nii.gz").unlink()
    if what == "unreadable":
        label(raw, CASES[2]).write_bytes(b"no image")
    if what == "no foreground":
        for case in CASES[:3]:
            sitk.WriteImage(sitk.ReadImage(str(label(raw, case))) * 0, str(label(raw, case)))
    if what == "twice":
        splits[0]["unlabeled"] += CASES[:1]
    (base / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")
    return {"fold": {"fold": 2}, "planner": {"planner": "Nobody"}, "name": {"plans_name": "../mine"}}.get(what, {})


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no splits", "nnunet_ssl split"),
        ("fold", "has folds 0 to 1: there is no fold 2"),
        ("planner", "no planner Nobody"),
        ("name", r"\.\./mine is no name for plans"),
        ("no label", f"lacks the image or label of {CASES[0]}"),
        ("no image", f"lacks the image or label of {CASES[1]}"),
        ("unreadable", f"{CASES[2]}.nii.gz"),
        ("no foreground", "cannot read the labeled cases of fold 0"),
        ("twice", f'{CASES[0]} in both "train" and "unlabeled"'),
    ],
)
def test_refusals(dataset, what, words, tmp_path):
    raw, base = dataset
    options = damage(raw, base, what)
    before = everything_below(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        plan_fold(**({"dataset_id": 7, "fold": 0, "processes": 1} | options))
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == before


def test_which_plans_saw_which_labels(dataset):
    _, base = dataset
    plain = {"plans_name": "p", "configurations": {}}

    def write(name, content):
        (base / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    write("dataset_fingerprint", {"spacings": [[1, 1, 1]] * 5})
    write("nnUNetPlans", plain)
    write("nnUNetPlans_fold0", plain | {"nnunet_ssl": {"fold": 0, "planned_on": CASES[:3]}})
    write("notes", {"by": "a user"})
    seen = hidden_labels_in_plans(base, SPLITS)
    assert seen == {"nnUNetPlans": {0: CASES[3:], 1: CASES[:3]}, "nnUNetPlans_fold0": {1: CASES[:3]}}
    assert in_words(seen["nnUNetPlans"]) == "2 label(s) hidden by fold 0, 3 by fold 1"
    assert hidden_labels_of_fold(plain, 0, base) == CASES[3:]
    assert hidden_labels_of_fold(plain, "all", base) == hidden_labels_of_fold(plain, 9, base) == []
    write("dataset_fingerprint", {"spacings": [[1, 1, 1]] * 3})
    assert hidden_labels_in_plans(base, SPLITS[:1]) == {}
    write("nnUNetPlans_fold0", plain | {"nnunet_ssl": {"fold": 0}})
    with pytest.raises(InputError, match='entry "nnunet_ssl" of the plans p is damaged'):
        hidden_labels_in_plans(base, SPLITS)


def test_verb(dataset):
    app = typer.Typer()
    app.command()(plan)
    options = ["-np", "1", "-pl", "nnUNetPlannerResEncM", "-overwrite_target_spacing", "4", "3", "3"]
    result = CliRunner().invoke(app, ["-d", "7", "-f", "0", *options, "-gpu_memory_target", "2"])
    assert result.exit_code == 0, result.output
    assert "planned on the 3 labeled cases of fold 0" in result.output
    assert "nnUNetv2_preprocess -d 7 -plans_name nnUNetResEncUNetMPlans_fold0 -c 3d_fullres" in result.output
    plans = read(dataset[1] / "nnUNetResEncUNetMPlans_fold0.json")
    assert plans["configurations"]["3d_fullres"]["spacing"] == [4, 3, 3]
