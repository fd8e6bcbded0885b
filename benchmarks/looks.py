"""One network of the annotation benchmark: trained on some labels, then looked at, on the training grid.

What is kept is the network's Dice on the test cases and on every case whose label it does not know, and the scores that
`nnunet_ssl suggest` ranks these by. Of the labels that a network does not know nothing but this Dice is read.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accuracy import DATASET_ID, PLANS, Workspace, training_cases
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from rows import length

from nnunet_ssl.annotation.model import Model, load_model
from nnunet_ssl.annotation.scores import CaseScores, ClassScores
from nnunet_ssl.data.splits import FILE as SPLITS
from nnunet_ssl.data.strays import list_images
from nnunet_ssl.files import read_json, write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.results.export import CHECKPOINT
from nnunet_ssl.runner.plan import Experiment, Run, overrides_by_method

AGAIN = "remove it and run the same command again"
KINDS = ("raw", "preprocessed", "results")


@dataclass(frozen=True)
class Training:
    """A method on a fold of the labels that are known by then, with a seed and a number of iterations."""

    method: str
    fold: int
    seed: int
    iterations: int

    def __str__(self) -> str:
        return f"fold{self.fold}_{self.method}_{self.iterations}_seed{self.seed}"


def fold_with(workspace: Workspace, labeled: Sequence[str]) -> int:
    """The fold that knows these labels and hides all others, at the end of `splits_final.json` if there is none."""
    file = workspace.preprocessed / SPLITS
    with locked(file, wait=True):
        folds = read_json(file, AGAIN)
        for number, fold in enumerate(folds):
            if {*fold["train"]} == {*labeled}:
                return number
        hidden = [case for case in training_cases(workspace) if case not in {*labeled}]
        # nnU-Net wants a validation case; it decides nothing
        write_json([*folds, {"train": [*labeled], "val": [labeled[0]], "unlabeled": hidden}], file)
        return len(folds)


def test(workspace: Workspace, training: Training) -> dict[str, Any]:
    """Dice by case and class on the test cases, and "core_seconds" of training and prediction; made if not there."""
    file = workspace.root / "looks" / f"{training}_test.json"
    with locked(workspace.root / "locks" / str(training), wait=True):
        if not file.is_file():
            trained, (found, looked) = _train(workspace, training), _seen(workspace, training, _test)
            write_json({"dice": found, "core_seconds": {"training": trained, "test": looked}}, file)
    return read_json(file, AGAIN)


def look(workspace: Workspace, training: Training) -> dict[str, Any]:
    """What a network that `test` has trained says of the cases whose label it does not know; made if not there.

    Returns:
        "pool": by case "dice" by class, "scores" and "descriptor"; "labeled": descriptors by case; "core_seconds".
    """
    file = workspace.root / "looks" / f"{training}_pool.json"
    with locked(workspace.root / "locks" / str(training), wait=True):
        if not file.is_file():
            found, seconds = _seen(workspace, training, _pool)
            write_json(found | {"core_seconds": seconds}, file)
    return read_json(file, AGAIN)


def _seen(workspace: Workspace, training: Training, what: Callable[..., dict]) -> tuple[dict[str, Any], float]:
    """What a function finds with the loaded network, and the seconds of processor time that it took."""
    print(f"{training}:{what.__name__.replace('_', ' ')} ...", flush=True)
    (workspace.root / "looks").mkdir(exist_ok=True)
    start = time.process_time()
    found = what(workspace, _load(workspace, training), training)
    return found, round(time.process_time() - start, 1)


def case_scores(pool: dict[str, Any]) -> list[CaseScores]:
    """The scores of the cases of a look's pool."""
    return [
        CaseScores(
            case,
            of["scores"]["instability"],
            of["scores"]["mutual_information"],
            {name: ClassScores(**each) for name, each in of["scores"]["by_class"].items()},
            tuple(of["descriptor"]),
        )
        for case, of in pool.items()
    ]


def mean_dice(by_class: dict[str, float]) -> float:
    """Of a case, over its classes."""
    return float(np.mean([*by_class.values()]))


def _train(workspace: Workspace, training: Training) -> float:
    """Trains unless it is done; returns the seconds of processor time that this call spent on it."""
    suite, before = workspace.suite, _children()
    own = ["--folds", str(training.fold), "--seeds", str(training.seed), "--config", _overrides(workspace, training)]
    workspace.run(
        f"{training}: training",
        [*("nnunet_ssl", "run", "-d", str(DATASET_ID), "-c", suite.configuration, "-p", PLANS),
         *("--methods", training.method, "--device", workspace.device), *own],
        str(training), _experiment(workspace, training).results,
    )  # fmt: skip
    return round(_children() - before, 1)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _overrides(workspace: Workspace, training: Training) -> str:
    fixed = json.dumps(length(workspace.suite, training.iterations))
    return json.dumps(overrides_by_method([training.method], fixed)[training.method])


def _experiment(workspace: Workspace, training: Training) -> Experiment:
    results = workspace.root / "nnUNet_results" / f"default_{training.iterations}"
    where = (workspace.preprocessed.name, workspace.suite.configuration, PLANS, workspace.device, results)
    return Experiment(DATASET_ID, *where, overrides={}, program="")


def _load(workspace: Workspace, training: Training) -> Model:
    experiment, run = _experiment(workspace, training), Run(training.method, training.fold, training.seed)
    roots = (workspace.raw.parent, workspace.preprocessed.parent, experiment.root(run))
    os.environ |= {f"nnUNet_{kind}": str(root) for kind, root in zip(KINDS, roots, strict=True)}
    return load_model(
        *(DATASET_ID, workspace.suite.configuration, f"nnUNetTrainer{training.method}", [str(training.fold)], PLANS),
        *(CHECKPOINT, workspace.device, True),
    )


def _pool(workspace: Workspace, model: Model, training: Training) -> dict[str, Any]:
    fold = read_json(workspace.preprocessed / SPLITS, AGAIN)[training.fold]
    folder = str(workspace.preprocessed / model.predictor.configuration_manager.data_identifier)
    dataset = nnUNetDatasetBlosc2(folder, [*fold["train"], *fold["unlabeled"]])

    def image_of(case: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(dataset.load_case(case)[0][:]))

    found = {}
    for case in fold["unlabeled"]:
        scored = model.predictor.score(case, image_of(case))
        own = scored.scores.as_dict()
        found[case] = {
            "dice": dice(scored.segmentation, np.asarray(dataset.load_case(case)[1][0]), model),
            "scores": {name: own[name] for name in ("instability", "mutual_information", "by_class")},
            "descriptor": [*(scored.scores.descriptor or ())],
        }
    labeled = {case: model.predictor.descriptor(image_of(case)).tolist() for case in fold["train"]}
    return {"pool": found, "labeled": labeled}


def _test(workspace: Workspace, model: Model, training: Training) -> dict[str, dict[str, float]]:
    return {
        case: dice(model.predictor.score(case, torch.from_numpy(image)).segmentation, segmentation, model)
        for case, image, segmentation in _test_cases(workspace, model)
    }


def _test_cases(workspace: Workspace, model: Model) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image (channels, *spatial) and labels (*spatial) of each test case, preprocessed as training cases are."""
    content, configuration = model.predictor.dataset_json, model.predictor.configuration_manager
    ending, folder = content["file_ending"], workspace.root / "test_on_grid"
    folder.mkdir(exist_ok=True)
    found = []
    for case, channels in sorted(list_images(workspace.raw / "imagesTs", ending)[0].items()):
        file = folder / f"{case}.npz"
        if not file.is_file():
            images = [str(image) for _, image in sorted(channels.items())]
            labels = str(workspace.raw / "labelsTs" / f"{case}{ending}")
            image, segmentation, _ = DefaultPreprocessor(verbose=False).run_case(
                images, labels, model.plans, configuration, content
            )
            partial = file.with_suffix(".partial.npz")
            np.savez_compressed(partial, image=image, segmentation=segmentation)
            partial.rename(file)
        with np.load(file) as arrays:
            found.append((case, arrays["image"], arrays["segmentation"][0]))
    return found


def dice(predicted: np.ndarray, truth: np.ndarray, model: Model) -> dict[str, float]:
    """By class, 1 where neither has it; of labels (*spatial)."""
    found = {}
    for name in model.predictor.names:
        label = model.predictor.dataset_json["labels"][name]
        ours, theirs = predicted == label, truth == label
        both = int(ours.sum() + theirs.sum())
        found[name] = round(2 * int((ours & theirs).sum()) / both, 5) if both else 1.0
    return found
