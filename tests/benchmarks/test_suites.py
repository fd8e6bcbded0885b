"""The suites of the accuracy benchmark: folds, classes and plans."""

import dataclasses
import inspect
import json

import pytest
import suites
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from nnunet_ssl.conversion.protocols import choose, published
from nnunet_ssl.data.splits import check_fold
from nnunet_ssl.demo.phantom import ORGANS, phantom_case


@pytest.mark.parametrize("suite", suites.SUITES.values(), ids=lambda suite: suite.name)
def test_folds_of_every_suite(suite):
    cases = [f"case_{i:03d}" for i in range(suite.units * suite.cases_per_unit)][::-1]
    folds = suites.make_folds(suite, cases)
    assert len(folds) == len(suite.labeled) + 1 and list(suite.labeled) == sorted(set(suite.labeled))
    for number, fold in zip(suite.labeled, folds, strict=False):
        check_fold(fold)
        assert suites.fold_of(suite, number) == folds.index(fold)
        known = cases[: (number or suite.copied) * suite.cases_per_unit]
        end = "_slices" if suite.sliced else "_partial"
        assert fold["train"] == (known if number else [f"{case}{end}" for case in known])
        assert known + fold["unlabeled"] == cases
        assert not set(fold["train"]) & set(fold["unlabeled"]) and set(fold["val"]) <= set(fold["train"])
    assert folds[suites.fold_of(suite, suites.ALL)] == {"train": cases, "val": cases[:1]}
    assert suite.iterations % suite.iterations_per_epoch == 0


def test_copies_with_fewer_labels_are_the_number_0():
    kinds = {suite.name: (suite.sliced, suite.partial) for suite in suites.SUITES.values() if suite.copied}
    assert kinds == {"la-sparse": (5, 0), "acdc-partial": (0, 9), "phantom-partial": (0, 6)}
    assert all((0 in suite.labeled) == bool(suite.copied) for suite in suites.SUITES.values())


@pytest.mark.parametrize(
    ("name", "units", "protocols"),
    [("la", 80, {4: "ua-mt-4", 8: "ua-mt-8", 16: "ua-mt-16"}), ("acdc", 70, {3: "ssl4mis-3", 7: "ssl4mis-7"})],
)
def test_labeled_numbers_are_those_of_the_published_protocols(name, units, protocols):
    assert len(published(name)[next(iter(protocols.values()))]["train"]) == units
    everything = choose(name, "100%", next(iter(protocols.values()))).parts["labeled"]
    suite = dataclasses.replace(suites.SUITES[f"{name}-mini"], cases_per_unit=1)
    folds = suites.make_folds(suite, everything)
    assert tuple(protocols) == suite.labeled and suite.units == units
    for number, protocol in protocols.items():
        parts, fold = choose(name, protocol, protocol).parts, folds[suites.fold_of(suite, number)]
        assert fold["train"] == parts["labeled"] and fold["unlabeled"] == parts["unlabeled"]
        assert not set(everything) & set(parts["test"])


def test_classes_are_those_of_the_data():
    suite = suites.SUITES["phantom"]
    assert suite.classes == ORGANS
    _, label = phantom_case(dict(suite.phantom)["shape"], seed=(1, 0))
    assert set(label.ravel()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("suite", suites.SUITES.values(), ids=lambda suite: suite.name)
def test_plans_have_the_patch_and_strides_that_fit_it(suite):
    dimensions = len(suite.patch)
    spacing = {"la": [0.625] * 3, "acdc": [1.5] * 2, "phantom": [2.0] * 3, "abdomen": [6.0] * 3}[suite.data]
    before = {
        "plans_name": "nnUNetPlans",
        "configurations": {
            suite.configuration: {
                "spacing": list(suite.spacing[-dimensions:]) if suite.spacing else spacing,
                "batch_dice": dimensions == 2,
                "architecture": {"arch_kwargs": {"n_stages": 9, "conv_bias": True}},
            },
            "other": {},
        },
    }
    plans = suites.edit_plans(before, suite, "nnUNetPlans_x")
    assert plans["plans_name"] == "nnUNetPlans_x" and list(plans["configurations"]) == [suite.configuration]
    configuration = plans["configurations"][suite.configuration]
    network = configuration["architecture"]["arch_kwargs"]
    assert configuration["patch_size"] == list(suite.patch) and configuration["batch_size"] == suite.batch
    assert configuration["data_identifier"] == f"nnUNetPlans_x_{suite.configuration}"
    assert configuration["batch_dice"] is (dimensions == 2 or suite.batch_dice)
    assert network["features_per_stage"] == list(suite.features) and network["conv_bias"] is True
    assert network["n_stages"] == len(network["strides"]) == len(network["kernel_sizes"]) == len(suite.features)
    for axis, size in enumerate(suite.patch):
        pooled = 1
        for stride in network["strides"]:
            pooled *= stride[axis]
        assert size % pooled == 0 and size // pooled >= suites.SMALLEST_FEATURE_MAP
    assert before["configurations"][suite.configuration]["architecture"]["arch_kwargs"]["n_stages"] == 9
    json.dumps(plans)


def test_a_patch_that_cannot_be_pooled_is_refused():
    suite = dataclasses.replace(suites.SUITES["la-coarse"], features=(4, 6), patch=(9, 17, 17))
    plans = {"configurations": {"3d_fullres": {"spacing": [4.0] * 3, "architecture": {"arch_kwargs": {}}}}}
    with pytest.raises(ValueError, match=r"\(9, 17, 17\) of la-coarse must be \(10, 20, 20\)"):
        suites.edit_plans(plans, suite, "x")


def test_smallest_feature_map_is_nnunets():
    source = inspect.getsource(ExperimentPlanner.__init__)
    assert f"self.UNet_featuremap_min_edge_length = {suites.SMALLEST_FEATURE_MAP}\n" in source
