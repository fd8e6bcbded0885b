"""Reading accuracy records: what is one, what is not, and what the messages say."""

import json

import pytest
from accuracy_records import content, origin, write

from nnunet_ssl.errors import InputError
from nnunet_ssl.report.records import read_records


def without(record: dict, *path: str) -> dict:
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return record


def test_records_of_subfolders_and_json_of_other_kinds(tmp_path):
    write(tmp_path / "one", content("CPS", seed=1, dice=0.7))
    write(tmp_path / "two" / "deep", content())
    (tmp_path / "two" / "splits_final.json").write_text("[{}]", encoding="utf-8")
    (tmp_path / "two" / "metrics.json").write_text('{"metrics": {}}', encoding="utf-8")
    found = read_records([tmp_path / "one", tmp_path / "two", tmp_path / "two" / "deep"])
    assert [(record.method, record.seed) for record in found] == [("CPS", 1), ("supervised", 0)]
    assert found[0].dice == pytest.approx(0.7)


def test_keys_that_may_be_absent(tmp_path):
    record = content()
    for key in ("learning_curve", "name", "overrides", "definition"):
        del record[key]
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    [found] = read_records([tmp_path])
    assert (found.learning_curve, found.name, found.overrides, found.definition) == ({}, None, {}, {})


def test_measures_after_postprocessing(tmp_path):
    record = content(postprocessed=0.7)
    write(tmp_path / "good", record, content("CPS"))
    assert [found.postprocessed for found in read_records([tmp_path / "good"])] == [None, pytest.approx(0.7)]
    write(tmp_path / "bad", without(record, "largest_component", "metrics", "dice", "mean"))
    with pytest.raises(InputError, match=r"lacks the key largest_component\.metrics\.dice\.mean"):
        read_records([tmp_path / "bad"])


def test_origins_are_kept_and_may_be_absent(tmp_path):
    write(tmp_path, content(origin=origin()), content("CPS"))
    cps, supervised = read_records([tmp_path])
    assert cps.origin == {} and supervised.origin == origin()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ["a"]}, "origin.train"),
        ({"val": {"cases": "4", "sha256": "1"}}, "origin.val.cases"),
        ({"hidden": {"cases": 4}}, "origin.hidden.sha256"),
        ({"num_epochs": None}, "origin.num_epochs"),
        ({"num_epochs": 3}, r"10 iterations, but trained for 15 \(origin\)"),
    ],
)
def test_damaged_origins_and_other_lengths(tmp_path, changes, message):
    write(tmp_path, content(origin=origin() | changes))
    with pytest.raises(InputError, match=rf"supervised.*\.json.*{message}"):
        read_records([tmp_path])


@pytest.mark.parametrize(
    ("path", "named"),
    [(("seed",), "seed"), (("metrics",), "metrics"), (("metrics", "asd_mm"), "metrics.asd_mm"),
     (("metrics", "dice", "per_case"), "metrics.dice.per_case")],
)  # fmt: skip
def test_a_record_that_lacks_a_key(tmp_path, path, named):
    (tmp_path / "faulty.json").write_text(json.dumps(without(content(), *path)), encoding="utf-8")
    with pytest.raises(InputError, match=rf"faulty\.json lacks the key {named}:"):
        read_records([tmp_path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"iterations": "10"}, 'iterations is "10"'), ({"seed": True}, "seed is true"), ({"labeled": "few"}, "labeled")],
)
def test_values_of_another_type(tmp_path, changes, message):
    (tmp_path / "faulty.json").write_text(json.dumps(content() | changes), encoding="utf-8")
    with pytest.raises(InputError, match=f"faulty.json: .*{message}"):
        read_records([tmp_path])


def test_no_dice_no_json_no_record_no_folder(tmp_path):
    record = content()
    record["metrics"]["dice"]["mean"] = None
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="record.json: metrics.dice.mean is null"):
        read_records([tmp_path])
    (tmp_path / "record.json").write_text('{"suite": ', encoding="utf-8")
    with pytest.raises(InputError, match="record.json is not valid JSON"):
        read_records([tmp_path])
    (tmp_path / "record.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="No accuracy record and no trained fold in"):
        read_records([tmp_path])
    with pytest.raises(InputError, match="absent is not a folder"):
        read_records([tmp_path / "absent"])
