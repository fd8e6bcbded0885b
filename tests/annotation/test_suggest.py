"""`nnunet_ssl suggest` from a trained tiny model to drafts and page."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from lineages import fold_of, hide
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from workbench import another_process_holds, change_a_weight, make_diverged

from nnunet_ssl.annotation.predictor import ScoringPredictor
from nnunet_ssl.annotation.suggest import suggest
from nnunet_ssl.errors import InputError

NAMES = {"configuration": "3d_fullres", "trainer": "nnUNetTrainerMeanTeacher", "plans": "nnUNetPlans_tiny"}
POOL = [f"phantom_00{number}" for number in range(4, 9)]


def run(out: Path, folds=("0",), **options) -> dict:
    suggest(7, folds=list(folds), out=out, device="cpu", processes=1, **(NAMES | options))
    return json.loads((out / "suggested.json").read_text(encoding="utf-8"))


def cases_of(content: dict) -> list[str]:
    return [case["case"] for case in content["cases"]]


def unlabeled(dataset) -> Path:
    (folder,) = dataset.base.glob("*_3d_fullres_unlabeled")
    return folder


def drafts_in(out: Path) -> list[str]:
    return sorted(file.name for file in (out / "drafts").iterdir())


def refused(out: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        run(out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def scored(monkeypatch):
    """The cases that are scored from now on."""
    seen, score = [], ScoringPredictor.score
    monkeypatch.setattr(
        ScoringPredictor, "score", lambda self, case, image: seen.append(case) or score(self, case, image)
    )
    return seen


def test_from_a_model_to_its_suggestion(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    content = run(out, n=2)
    assert content["strategy"] == "boostmis"
    digest = hashlib.sha256((fold_of(dataset) / "checkpoint_final.pth").read_bytes()).hexdigest()
    assert content["model"] == NAMES | {"dataset": dataset.name, "mirroring": True, "checkpoints": {"0": digest}}
    first = content["cases"][0]
    assert list(first) == ["case", "rank", "scores", "reason", "draft", "draft_digest"]
    assert first["rank"] == 1 and first["draft"] == f"{first['case']}.nii.gz" and set(cases_of(content)) <= {*POOL}
    scores = first["scores"]
    assert all(scores[name] > 0 for name in ("instability", "entropy", "density", "mutual_information", "distance"))
    assert list(scores["by_class"]) == ["liver", "kidney"]
    printed = capsys.readouterr().out
    assert "5 unlabeled cases, 5 to score." in printed and f"1. {first['case']}: {first['reason']}" in printed
    assert f"nnunet_ssl adopt -d 7 {out / 'drafts'}" in printed
    assert "Inspecting module" not in printed and "perform_everything_on_device" not in printed  # nnU-Net's own
    assert sorted(file.name for file in (out / "drafts").iterdir()) == sorted(
        case["draft"] for case in content["cases"]
    )
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("folds", ["0", "01"])
def test_drafts_are_what_nnunet_predicts_from_the_scans(dataset, tmp_path, folds):
    """From the raw files, by nnU-Net's own preprocessing; on the scan's own voxels."""
    out = tmp_path / "out"
    content = run(out, folds, n=9)
    assert list(content["model"]["checkpoints"]) == list(folds)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(fold_of(dataset).parent), tuple(folds))
    scans = [[str(dataset.raw / "imagesUnlabeled" / f"{case}_0000.nii.gz")] for case in POOL]
    expected = predictor.predict_from_files_sequential(scans, None, False, True, None)
    for case, (scan,), labels in zip(POOL, scans, expected, strict=True):
        draft, image = sitk.ReadImage(str(out / "drafts" / f"{case}.nii.gz")), sitk.ReadImage(scan)
        found = sitk.GetArrayFromImage(draft)
        np.testing.assert_array_equal(found, labels)
        for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(draft, name)() == pytest.approx(getattr(image, name)())
        digests = {each["case"]: each["draft_digest"] for each in content["cases"]}
        assert digests[case] == hashlib.sha256(found.astype("<i2").tobytes()).hexdigest()


def test_nothing_is_scored_twice_and_another_strategy_takes_the_scores(dataset, tmp_path, scored):
    out = tmp_path / "out"
    before = run(out, n=3)
    assert scored == POOL
    drawn = run(out, n=3, strategy="random")
    assert scored == POOL and cases_of(drawn) == cases_of(run(out, n=3, strategy="random"))
    others = [run(out, n=5, strategy="random", seed=seed) for seed in range(4)]
    assert len({tuple(cases_of(other)) for other in others}) > 1
    diverse = run(out, n=1, strategy="diversity")
    distances = {case["case"]: case["scores"]["distance"] for case in run(out, n=5)["cases"]}
    assert cases_of(diverse) == [max(distances, key=distances.get)]
    assert run(out, n=3) == before
    assert drafts_in(out) == sorted(case["draft"] for case in before["cases"])


def test_what_was_cut_off_goes_on(dataset, tmp_path, monkeypatch, scored):
    whole, out = run(tmp_path / "whole"), tmp_path / "out"
    del scored[:]
    counted = ScoringPredictor.score

    def stopped(self, case, image):
        if case == POOL[2]:
            raise KeyboardInterrupt
        return counted(self, case, image)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ScoringPredictor, "score", stopped)
        run(out)
    assert scored == POOL[:2] and not (out / "suggested.json").exists()
    assert run(out) == whole and scored == POOL
    os.utime(unlabeled(dataset) / f"{POOL[1]}.b2nd")  # preprocessed again
    (out / "scored" / "drafts" / f"{POOL[3]}.nii.gz").unlink()
    assert run(out) == whole and scored == [*POOL, POOL[1], POOL[3]]


def test_scores_belong_to_their_checkpoints(dataset, tmp_path, capsys, scored):
    out = tmp_path / "out"
    first = run(out)
    run(out, folds=("1",))
    assert scored == 2 * POOL and "are of other checkpoints: all cases are scored anew" in capsys.readouterr().out
    assert run(out) == first


def test_corrected_drafts_are_left_alone(dataset, tmp_path):
    out = tmp_path / "out"
    file = out / "drafts" / run(out, n=1)["cases"][0]["draft"]
    labels = sitk.ReadImage(str(file))
    labels[0, 0, 0] = 1 - labels[0, 0, 0]
    sitk.WriteImage(labels, str(file))
    corrected = file.read_bytes()
    for options in ({}, {"strategy": "random"}, {"folds": ("1",)}):
        assert "is no unchanged draft: give it back first, `nnunet_ssl adopt -d 7" in refused(out, **options)
    assert file.read_bytes() == corrected


def test_drafts_that_were_taken_in_make_room(dataset, tmp_path):
    """The corrected case is no longer in the pool."""
    out = tmp_path / "out"
    case = run(out, n=1)["cases"][0]
    labels = sitk.ReadImage(str(out / "drafts" / case["draft"]))
    sitk.WriteImage(labels + 1, str(out / "drafts" / case["draft"]))
    manifest = unlabeled(dataset) / "unlabeled.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["cases"].remove(case["case"])
    manifest.write_text(json.dumps(content), encoding="utf-8")
    after = run(out, n=9)
    assert sorted(cases_of(after)) == sorted({*POOL} - {case["case"]})
    assert drafts_in(out) == sorted(each["draft"] for each in after["cases"])


def test_more_than_there_are_takes_all_and_says_so(dataset, tmp_path, capsys):
    assert sorted(cases_of(run(tmp_path / "out", n=6))) == POOL
    assert "-n 6: there are 5 unlabeled cases, all of them are suggested." in capsys.readouterr().out


def test_a_case_whose_label_is_hidden_is_no_candidate_and_not_labeled(dataset, tmp_path, capsys):
    hidden = hide(dataset)
    out = tmp_path / "out"
    assert sorted(cases_of(run(out))) == POOL
    assert (
        "1 case(s) whose label these folds hide are no candidates: their labels are there." in capsys.readouterr().out
    )
    labeled = {file.stem for file in (out / "scored" / "labeled").iterdir()}
    assert labeled == {f"phantom_00{number}" for number in range(4)} - {hidden}


def test_page_is_one_file_with_the_pictures_of_each_case(dataset, tmp_path):
    out = tmp_path / "out"
    content = run(out, n=2)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    for plane in ("axial", "coronal", "sagittal"):
        assert page.count(f"<figcaption>{plane}</figcaption>") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "http" not in page
    for case in content["cases"]:
        assert f"{case['rank']}. {case['case']}</h2>" in page and case["reason"] in page
        assert f"<code>drafts/{case['draft']}</code>" in page
    for name in ("liver", "kidney", "mutual information", "2 of 5 unlabeled scans", "fold 0", "adopt -d 7"):
        assert name in page


def without_cases(dataset):
    shutil.rmtree(unlabeled(dataset))


def with_other_plans(dataset):
    file = dataset.base / f"{dataset.plans}.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["spacing"] = [3.0, 3.0, 3.0]
    file.write_text(json.dumps(plans), encoding="utf-8")


def with_a_second_stage(dataset):
    file = dataset.base / f"{dataset.plans}.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    second = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"]["3d_cascade_fullres"] = second
    file.write_text(json.dumps(plans), encoding="utf-8")


def with_other_labels(dataset):
    file = dataset.base / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["labels"]["gland"] = 3
    file.write_text(json.dumps(content), encoding="utf-8")


def with_damaged_image(dataset):
    (unlabeled(dataset) / "phantom_005.b2nd").write_bytes(b"no image")


def with_weights_of_another_network(dataset):
    file = fold_of(dataset) / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    content["network_weights"].popitem()
    torch.save(content, file)


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (without_cases, {}, "No preprocessed unlabeled cases: .* Put the unlabeled images in .*imagesUnlabeled"),
        (with_other_plans, {}, "was trained with other plans than .*nnUNetPlans_tiny.json is now"),
        (
            with_a_second_stage,
            {"configuration": "3d_cascade_fullres"},
            "3d_cascade_fullres is the second stage of a cascade.*: suggest with the first, -c 3d_lowres",
        ),
        (with_other_labels, {}, "has other labels than .*: train the model anew"),
        (with_damaged_image, {}, r"case phantom_005: .*phantom_005.b2nd cannot be read .* run `nnunet_ssl preprocess`"),
        (with_weights_of_another_network, {}, r"fold_0/checkpoint_final.pth cannot be used .*: train it again"),
        (
            lambda d: make_diverged(fold_of(d) / "checkpoint_final.pth"),
            {},
            "checkpoint_final.pth has weights that are no numbers: .* anew",
        ),
        (lambda d: change_a_weight(fold_of(d) / "checkpoint_final.pth"), {}, "is no whole checkpoint .*is damaged"),
        (None, {"folds": ("3",)}, r"fold_3/checkpoint_final.pth does not exist: .* there are: fold_0, fold_1\."),
        (None, {"checkpoint": "checkpoint_x.pth"}, "checkpoint_x.pth does not exist: .* there are: none"),
        (None, {"folds": ("x",)}, "-f x: give the number of a fold, or all"),
        (None, {"trainer": "nnUNetTrainerCPS"}, "does not exist. Trained so far"),
        (None, {"configuration": "2d_x"}, "No configuration 2d_x"),
        (None, {"strategy": "best"}, "--strategy best: there is no such strategy; there are boostmis, entropy"),
        (None, {"strategy": "mutual-information", "mirroring": False}, "one fold without mirroring is a single pass"),
        (None, {"n": 0}, "-n 0: suggest at least one case"),
    ],
)
def test_bad_input_is_refused_in_a_line_and_leaves_no_suggestion(dataset, tmp_path, spoil, options, words):
    if spoil:
        spoil(dataset)
    message = refused(tmp_path / "out", **options)
    assert re.search(words, message), message
    assert not (tmp_path / "out" / "suggested.json").exists()


def test_second_of_two_in_one_folder_is_refused(dataset, tmp_path):
    with another_process_holds(tmp_path / "out"):
        assert "is in use" in refused(tmp_path / "out")
