"""What `dataset.json` may say of structures that were not annotated."""

from pathlib import Path

import pytest

from nnunet_ssl.data.not_annotated import cases_by_name, check_cases, in_words, read_not_annotated
from nnunet_ssl.errors import InputError

FILE = Path("Dataset007_Phantom/dataset.json")
LABELS = {"background": 0, "liver": 1, "kidney": 2, "ignore": 3}


def read(declared, labels=LABELS):
    return read_not_annotated({"labels": labels, "not_annotated": declared}, FILE)


def test_cases_and_their_classes():
    declared = read({"a": ["liver", "kidney", "liver"], "b": [], "c": ["liver"]})
    assert declared == {"a": ("liver", "kidney"), "c": ("liver",)}
    assert cases_by_name(declared) == {"liver": ["a", "c"], "kidney": ["a"]}
    assert in_words(declared) == "liver in 2 cases (a, c); kidney in 1 case (a)"
    assert read_not_annotated({"labels": LABELS}, FILE) == {}
    assert read({"a": ["organs"]}, {"background": 0, "organs": [1, 2], "kidney": 2}) == {"a": ("organs",)}


@pytest.mark.parametrize("name", ["spleen", "background", "ignore", 1, None])
def test_names_of_no_foreground_class_are_refused(name):
    with pytest.raises(InputError, match=f'"not_annotated" of a names {name}, which is no .* There are liver, kidney'):
        read({"a": [name]})


@pytest.mark.parametrize("declared", [["a"], {"a": "liver"}, {"a": {"liver": 1}}, {"../a": ["liver"]}, None])
def test_other_forms_are_refused(declared):
    with pytest.raises(InputError, match="dataset.json"):
        read(declared)


def test_cases_without_a_label_are_refused():
    check_cases({"a": ("liver",)}, ["a", "b"], FILE)
    with pytest.raises(InputError, match='"not_annotated" names c, d, no labeled'):
        check_cases({"a": ("liver",), "d": ("liver",), "c": ("liver",)}, ["a", "b"], FILE)
