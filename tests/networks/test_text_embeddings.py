"""Embeddings of classes' names from a user's file."""

import json

import pytest
import torch

from nnunet_ssl.errors import InputError
from nnunet_ssl.networks.text_embeddings import read_embeddings, without_language

GOOD = {"background": [0.0] * 768, "liver": [0.5] * 767 + [-2]}
NAMES = ("liver", "background")


def written(folder, content):
    file = folder / "names.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_rows_are_by_name_in_the_order_of_the_channels(tmp_path):
    text, others = read_embeddings(written(tmp_path, GOOD | {"spleen": [1.0] * 768, "a": []}), NAMES)
    assert text.shape == (2, 768) and text.dtype == torch.float32
    assert text[0, 0] == 0.5 and text[0, -1] == -2 and not text[1].any()
    assert others == ["a", "spleen"]


def with_liver(row):
    return GOOD | {"liver": row}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"background": [0.0] * 768}, r"names.json, class 'liver': it has no embedding"),
        (with_liver([0.5] * 512), r"names.json, class 'liver': .* list of 768 numbers, not 512 values"),
        (with_liver([[0.5] * 768]), r"names.json, class 'liver': .* list of 768 numbers, not 1 values"),
        (with_liver("CT"), r"names.json, class 'liver': .* list of 768 numbers, not str"),
        (with_liver(None), r"names.json, class 'liver': .* list of 768 numbers, not NoneType"),
        (with_liver(["1"] * 768), r"names.json, class 'liver': .* holds '1', which is no number"),
        (with_liver([True] * 768), r"names.json, class 'liver': .* holds True, which is no number"),
        (with_liver([1e39] * 768), r"names.json, class 'liver': .* holds 1e\+39, which is no finite float32"),
        (with_liver([10**400] * 768), r"names.json, class 'liver': .* which is no finite float32"),
        (json.dumps(GOOD).replace("-2", "1e999"), r"names.json, class 'liver': .* holds inf, which is no finite"),
        (json.dumps(GOOD).replace("-2", "NaN"), r"names.json is not valid JSON \(NaN is no number of JSON\)"),
        ('{"liver": [], "liver": []}', r"names.json is not valid JSON \(a name stands twice"),
        ([GOOD], r"names.json must be an object"),
        ("", r"names.json is not valid JSON"),
    ],
)
def test_files_that_are_no_embeddings_are_refused_in_a_line_that_names_file_and_class(tmp_path, content, words):
    with pytest.raises(InputError, match=words) as refused:
        read_embeddings(written(tmp_path, content), NAMES)
    assert "\n" not in str(refused.value) and "docs/text.md" in str(refused.value)
    assert len(str(refused.value).replace(str(tmp_path), "")) < 240


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"names.json does not exist: make it as docs/text.md says"):
        read_embeddings(tmp_path / "names.json", NAMES)


def test_the_table_without_language_is_always_the_same_and_no_two_classes_are_alike():
    torch.manual_seed(1)
    table = without_language(14)
    torch.manual_seed(2)
    assert torch.equal(without_language(14), table)
    cosines = table @ table.T - torch.eye(14)
    assert cosines.abs().max() < 0.2
