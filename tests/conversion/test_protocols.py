"""Which cases are labeled, unlabeled and for testing."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nnunet_ssl.cli import app
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.protocols import (
    Lists,
    OfThoseThere,
    choose,
    choose_labeled,
    published,
    read_ids,
    wanted_labeled,
)
from nnunet_ssl.errors import InputError

TRAIN, TEST = ["d", "a", "c", "b"], ["x", "y"]


def test_first_n_are_labeled():
    assert choose_labeled(TRAIN, TEST, 1) == (["d"], ["a", "c", "b"])
    assert choose_labeled(TRAIN, TEST, 4) == (TRAIN, [])
    for number in (0, 5):
        with pytest.raises(InputError, match="choose 1 to 4"):
            choose_labeled(TRAIN, TEST, number)


def test_list_of_labeled(tmp_path):
    path = tmp_path / "labeled.txt"
    path.write_text("b\r\n\n a \n", encoding="utf-8")
    assert choose_labeled(TRAIN, TEST, path) == (["b", "a"], ["d", "c"])
    for text, message in {
        "a\ny\n": "test cases as labeled: y",
        "a\nq\nr\n": "not in the training list: q, r",
        "a\nb\na\n": "more than once: a",
        "\n": "is empty",
    }.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            choose_labeled(TRAIN, TEST, path)
    with pytest.raises(InputError, match="Cannot read the list"):
        read_ids(tmp_path / "none.txt")


def test_percentage_is_rounded_down():
    names = [str(number) for number in range(100)]
    for percentage, number in {"10%": 10, "7%": 7, "29%": 29, "5.9%": 5, "0.5%": 1, "100%": 100}.items():
        labeled, unlabeled = choose_labeled(names, [], percentage)
        assert labeled == names[:number]
        assert unlabeled == names[number:]
    for percentage in ("0%", "101%", "-5%"):
        with pytest.raises(InputError, match="more than 0%"):
            choose_labeled(names, [], percentage)


def test_options():
    assert wanted_labeled(None, None, None) is None
    assert wanted_labeled("8", None, None) == 8
    assert wanted_labeled("-1", None, None) == -1
    assert wanted_labeled("2.5%", None, None) == "2.5%"
    assert wanted_labeled("mine.txt", None, None) == wanted_labeled(None, Path("mine.txt"), None) == Path("mine.txt")
    assert wanted_labeled(None, None, "dhc-20") == "dhc-20"
    for two in (("8", Path("a"), None), ("8", None, "dhc-20"), (None, Path("a"), "dhc-20")):
        with pytest.raises(InputError, match="not both"):
            wanted_labeled(*two)


DATASETS = {
    "la": ("ua-mt-8", {"ua-mt-4", "ua-mt-8", "ua-mt-16"}),
    "acdc": ("ssl4mis-7", {"ssl4mis-3", "ssl4mis-7", "ssl4mis-14"}),
    "synapse": ("genericssl-20", {"dhc-10", "dhc-20", "dhc-40", "genericssl-20"}),
    "amos": ("dhc-5", {"dhc-2", "dhc-5", "dhc-10"}),
    "pancreas": ("mc-net-12", {"mc-net-6", "mc-net-12"}),
    "lits": ("desco-5", {"desco-5"}),
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_published_protocols(dataset):
    default, names = DATASETS[dataset]
    assert set(published(dataset)) == names
    for name in names:
        choice = choose(dataset, name, default)
        content = published(dataset)[name]
        assert choose(dataset, name, default, validate=True).parts.get("validation", []) == content["validation"]
        labeled, unlabeled, test = choice.parts.values()
        assert choice.record["protocol"] == name
        assert labeled
        assert sorted(labeled + unlabeled) == sorted(set(content["train"]))
        assert not set(content["train"]) & set(test + content["validation"])
        assert not set(content["validation"]) & set(test)
        assert str(len(labeled)) in name or "dhc" in name or "genericssl" in name
    assert choose(dataset, None, default).record["protocol"] == default
    # The help of the command names them all.
    shown = CliRunner().invoke(app, ["convert", dataset, "--help"], env={"COLUMNS": "300"}).output
    assert set(re.findall(r"^  ([\w-]+) +\d+ labeled", shown, re.MULTILINE)) == names
    assert f"Default: {default}." in " ".join(shown.split())


def test_same_cases_are_the_same_protocol():
    protocols = [choose("la", labeled, "ua-mt-8").record for labeled in (None, 8, "10%", "ua-mt-8")]
    assert all(record == protocols[0] for record in protocols)
    assert "protocol" not in choose("la", 9, "ua-mt-8").record


def test_what_the_source_lacks_is_left_out_and_said():
    own = Lists(["b", "a", "c"], ["d"], origin="lists of the source")
    choice = choose("nothing", OfThoseThere("40%"), "10%", own)
    left = choice.present(["a", "b"], Path("Some/Folder"))
    assert left.parts == {"labeled": ["b"], "unlabeled": ["a"], "test": []}
    assert left.record["missing"] == ["c", "d"] and left.notes[-1].cases == ("c", "d")
    with pytest.raises(InputError, match="lacks scans .*: b, d. No labeled one is left: .*--labeled-list"):
        choice.present(["a", "c"], Path("Some/Folder"))
    published = choose("la", OfThoseThere(None), "ua-mt-8")
    assert published.record["protocol"] == "ua-mt-8"
    assert "protocol" not in published.present(published.parts["labeled"], Path("Some/Folder")).record


def test_own_lists():
    own = Lists(["b", "a", "c"], ["d"], origin="lists of the source")
    choice = choose("nothing", "40%", "10%", own)
    assert choice.parts == {"labeled": ["b"], "unlabeled": ["a", "c"], "test": ["d"]}
    with pytest.raises(InputError, match=r"Some/Folder lacks scans of the lists of the source: c, d\. Add them"):
        choice.present(["a", "b"], Path("Some/Folder"))
    assert choice.present(["a", "b", "c", "d"], Path("Some/Folder")) is choice
    assert choice.unused(["y", "a", "x"]) == [
        Note("in the source but not used", "not in the lists of the source", ("x", "y"))
    ]
    assert choice.unused(["a", "b"]) == []
    with pytest.raises(InputError, match="Unknown protocol 'dhc-20'. There are none"):
        choose("nothing", "dhc-20", "10%", own)
