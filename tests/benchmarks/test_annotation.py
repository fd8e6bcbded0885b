"""The annotation benchmark: rows, rounds on made-up networks, tables, and a short run of all its commands."""

import argparse
import json

import annotation
import annotation_tables
import looks
import numpy as np
import pytest
import suites
from accuracy import Workspace

from nnunet_ssl.annotation.scores import CaseScores, ClassScores
from nnunet_ssl.errors import InputError

TINY = suites.Suite(
    name="tiny", data="phantom", classes=("liver", "kidney"), configuration="3d_fullres", spacing=(4.0, 4.0, 4.0),
    features=(4, 6), patch=(8, 16, 16), batch=2, iterations=4, iterations_per_epoch=2, labeled=(1, 2), units=6,
    phantom=(("shape", (20, 28, 28)), ("classes", 3)), test=1,
)  # fmt: skip
CASES = [f"case_{number}" for number in range(6)]


def asked(tmp_path, **changes) -> argparse.Namespace:
    options = {"strategies": [], "method": "Supervised", "seeds": [0], "draws": 1, "rounds": 2, "begin": None}
    others = {"each": 2, "iterations": None, "device": "cpu", "source": None, "figure": None}
    return argparse.Namespace(**options | others | {"work": tmp_path / "work", "out": tmp_path / "out"} | changes)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Of six cases, with the folds of the suite."""
    for module in (annotation, looks):
        monkeypatch.setattr(module, "training_cases", lambda workspace: list(CASES))
    made = Workspace(TINY, tmp_path / "work" / "tiny", "cpu")
    made.preprocessed.mkdir(parents=True)
    (made.preprocessed / "splits_final.json").write_text(json.dumps(suites.make_folds(TINY, CASES)))
    return made


@pytest.fixture
def networks(monkeypatch):
    """Of which the test Dice is the number of labeled cases over ten, and drafts are the worse the later the case."""
    trained = []

    def fold_of(workspace, training):
        return json.loads((workspace.preprocessed / "splits_final.json").read_text())[training.fold]

    def test(workspace, training):
        known = fold_of(workspace, training)["train"]
        trained.append((training.seed, tuple(known)))
        return {"dice": {"t": {"liver": len(known) / 10, "kidney": 0.0}}, "core_seconds": {"training": 1.0}}

    def look(workspace, training):
        fold = fold_of(workspace, training)
        return {"core_seconds": 2.0, "labeled": {case: [1.0, 0.0] for case in fold["train"]},
                "pool": {case: draft(int(case[-1])) for case in fold["unlabeled"]}}  # fmt: skip

    monkeypatch.setattr(annotation, "test", test)
    monkeypatch.setattr(annotation, "look", look)
    return trained


def draft(number: int) -> dict:
    """Of a case: the more unstable and the less certain the earlier, the worse the later."""
    own = ClassScores(voxels=10, unsure=0.5, entropy=0.1 * (9 - number))
    scores = CaseScores("", 1.0 / (1 + number), float(number), {"liver": own}, None).as_dict()
    scores = json.loads(json.dumps({key: scores[key] for key in ("instability", "mutual_information", "by_class")}))
    return {"dice": {"liver": 1 - number / 10, "kidney": 1.0}, "scores": scores, "descriptor": [1.0, number / 10]}


def test_chance_stands_beside_every_strategy(tmp_path):
    rows = annotation.rows_of(TINY, asked(tmp_path, strategies=["worst", "boostmis", "worst"], seeds=[3, 1], draws=2))
    assert [(row.strategy, row.seed, row.draw) for row in rows] == [
        ("random", 3, 0), ("random", 3, 1), ("worst", 3, 0), ("boostmis", 3, 0),
        ("random", 1, 0), ("random", 1, 1), ("worst", 1, 0), ("boostmis", 1, 0),
    ]  # fmt: skip
    assert str(rows[1]) == "random_Supervised_4_1by2_seed3_draw1" and str(rows[2]) == "worst_Supervised_4_1by2_seed3"
    for wrong, message in (({"each": 0}, "--each 0: give 1"), ({"rounds": -1}, "--rounds -1: give 0")):
        with pytest.raises(InputError, match=message):
            annotation.rows_of(TINY, asked(tmp_path, **wrong))


def test_a_set_of_labels_has_one_fold_that_hides_all_others(workspace):
    assert looks.fold_with(workspace, ["case_1", "case_0"]) == 1  # the suite's own
    assert looks.fold_with(workspace, ["case_5", "case_2"]) == looks.fold_with(workspace, ["case_2", "case_5"]) == 3
    folds = json.loads((workspace.preprocessed / "splits_final.json").read_text())
    hidden = ["case_0", "case_1", "case_3", "case_4"]
    assert folds[:3] == suites.make_folds(TINY, CASES)
    assert folds[3:] == [{"train": ["case_5", "case_2"], "val": ["case_5"], "unlabeled": hidden}]


def test_rounds_uncover_what_the_strategy_takes_first(workspace, networks, tmp_path, monkeypatch, capsys):
    options = asked(tmp_path, strategies=["worst", "boostmis", "mutual-information", "diversity"])
    monkeypatch.setattr(annotation, "prepare", lambda *arguments: None)
    annotation.run(TINY, options)
    found = {file.name: json.loads(file.read_text()) for file in options.out.iterdir()}
    known = {record["strategy"]: [entry["labeled"] for entry in record["rounds"]] for record in found.values()}
    first, last = ["case_0", "case_1", "case_2"], ["case_0", "case_5", "case_4"]
    assert known["worst"] == known["mutual-information"] == [["case_0"], last, [*last, "case_3", "case_2"]]
    assert known["boostmis"] == [["case_0"], first, [*first, "case_3", "case_4"]]
    assert known["diversity"][1][:2] == ["case_0", "case_5"]
    assert len(known["random"][2]) == len({*known["random"][2]}) == 5
    record = found["tiny_worst_Supervised_4_1by2_seed0.json"]
    assert [entry["dice"] for entry in record["rounds"]] == pytest.approx([0.05, 0.15, 0.25])
    assert record["rounds"][0]["pool"]["case_5"] == {
        "dice": 0.75, "boostmis": 5, "entropy": 5, "mutual-information": 1, "diversity": 1, "instability": 5,
    }  # fmt: skip
    assert "pool" not in record["rounds"][2]
    assert not any("pool" in entry for entry in found["tiny_random_Supervised_4_1by2_seed0_draw0.json"]["rounds"])
    shown = capsys.readouterr().out
    assert "+0.0000" in shown and "-1.00" in shown and "+1.00" in shown

    networks.clear()
    annotation.run(TINY, options)
    assert not networks  # all rows have their record


def test_a_seed_has_its_own_beginning_and_draws(workspace, networks, tmp_path):
    rows = annotation.rows_of(TINY, asked(tmp_path, strategies=["worst"], seeds=[0, 1, 2, 3], draws=3))
    begin = {(row.seed, *annotation.beginning(workspace, row)) for row in rows}
    assert (0, "case_0") in begin and len(begin) == 4 and len({case for _, case in begin}) > 1
    drawn = [tuple(annotation.ranking(row, None, workspace, ["case_4"])) for row in rows if row.strategy == "random"]
    assert all({*order} == {*CASES} - {"case_4"} for order in drawn)
    assert len({*drawn}) > 6


def test_a_record_is_taken_if_it_has_the_rounds_and_the_suite(workspace, networks, tmp_path):
    row = annotation.rows_of(TINY, asked(tmp_path))[0]
    file = tmp_path / "record.json"
    assert annotation.recorded(file, TINY, 2) is None
    record = annotation.measure(workspace, row, 1)
    file.write_text(json.dumps(record))
    assert annotation.recorded(file, TINY, 2) is None
    assert annotation.recorded(file, TINY, 1) == json.loads(json.dumps(record))
    assert [len(entry["labeled"]) for entry in annotation.recorded(file, TINY, 0)["rounds"]] == [1]
    file.write_text(json.dumps(record | {"definition": record["definition"] | {"batch": 3}}))
    with pytest.raises(InputError, match="was made with another tiny"):
        annotation.recorded(file, TINY, 1)


def made(strategy, seed, *dice) -> dict:
    rounds = [{"labeled": ["x"] * (1 + number), "dice": value} for number, value in enumerate(dice)]
    return {"strategy": strategy, "seed": seed, "rounds": rounds, "suite": "s", "method": "m", "iterations": 1}


def test_a_strategy_is_compared_with_the_chance_of_its_own_seed(tmp_path):
    records = [
        made("random", 0, 0.5, 0.6, 0.7), made("random", 0, 0.5, 0.5, 0.6), made("random", 1, 0.3, 0.4, 0.5),
        made("worst", 0, 0.5, 0.7, 0.7), made("worst", 1, 0.3, 0.4, 0.3), made("worst", 2, 0.3, 0.4, 0.3),
    ]  # fmt: skip
    assert annotation_tables.gained(records, "worst") == pytest.approx({0: 0.1, 1: -0.1})
    random = annotation_tables.of_strategy(records, "random")
    assert annotation_tables.curve(random) == pytest.approx([0.4, 0.475, 0.575])  # each seed counts once
    annotation_tables.write_figure(records, tmp_path / "figures" / "a.png")
    assert (tmp_path / "figures" / "a.png").stat().st_size > 10000


def test_an_order_foretells_errors(tmp_path):
    errors = np.linspace(0.1, 0.9, 10)
    pool = {f"c{n}": {"dice": 1 - error, "good": 10 - n, "bad": n + 1} for n, error in enumerate(errors)}
    assert annotation_tables.forecast(pool, "good") == pytest.approx((1, errors[5:].mean() - 0.5))
    assert annotation_tables.forecast(pool, "bad") == pytest.approx((-1, errors[:5].mean() - 0.5))
    shared = made("worst", 0, 0.5)
    shared["rounds"][0]["pool"] = pool
    assert len(annotation_tables.looks([shared, shared | {"strategy": "entropy"}, shared | {"seed": 1}])) == 2
    annotation_tables.write_figure([shared], tmp_path / "drafts.png")
    assert (tmp_path / "drafts.png").stat().st_size > 10000


@pytest.mark.long
def test_a_run_of_all_commands(tmp_path, monkeypatch, capsys):
    """One round of one case: two networks more than the first, each tested, the pool of the first looked at."""
    monkeypatch.delenv("nnUNet_results", raising=False)
    options = asked(tmp_path, strategies=["entropy"], rounds=1, each=1)
    annotation.run(TINY, options)
    records = [json.loads(file.read_text()) for file in sorted(options.out.iterdir())]
    assert [record["strategy"] for record in records] == ["entropy", "random"]
    first = records[0]["rounds"][0]
    assert len(first["pool"]) == 5 and all(0 <= of["dice"] <= 1 for of in first["pool"].values())
    assert records[0]["rounds"][0]["per_case"] == records[1]["rounds"][0]["per_case"]
    assert first["core_seconds"]["training"] > 0
    looked = sorted(file.name for file in (tmp_path / "work" / "tiny" / "looks").iterdir())
    assert len(looked) == len({*looked}) and sum("pool" in name for name in looked) == 1
    capsys.readouterr()
    annotation.run(TINY, options)
    assert "training" not in capsys.readouterr().out
