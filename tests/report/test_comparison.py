"""Which records are compared, with which bounds, and what comes of it."""

import pytest
from accuracy_records import content, origin, write

from nnunet_ssl.errors import InputError
from nnunet_ssl.report.comparison import Group, Row, gap_closed, make_sections, percent
from nnunet_ssl.report.records import read_records

CPS, UAMT = "CPS", "UAMT"


def sections(tmp_path, *records):
    return make_sections(read_records([write(tmp_path / "records", *records)]))


def seeds(method="supervised", labeled=4, dice=(0.6, 0.62), **changes):
    return [content(method, labeled, seed, value, **changes) for seed, value in enumerate(dice)]


def bounds():
    return [*seeds(), *seeds(labeled="all", dice=(0.8, 0.82))]


def test_gap_closed():
    assert gap_closed(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert gap_closed(0.55, 0.6, 0.8) == pytest.approx(-0.25)
    assert gap_closed(0.7, 0.8, 0.8) is None
    assert gap_closed(0.7, 0.8, 0.6) is None


def test_a_share_is_printed_as_whole_percents():
    assert [percent(share) for share in (0.43, -0.13, 1.0)] == ["43%", "−13%", "100%"]
    assert [percent(share) for share in (-0.004, 0.004)] == ["0%", "0%"]


def test_a_table_between_its_bounds(tmp_path):
    [section] = sections(tmp_path, *bounds(), *seeds(UAMT, dice=(0.59, 0.61)), *seeds(CPS, dice=(0.65, 0.67)))
    [table] = section.comparisons
    assert [group.label for group in table.groups] == ["supervised", CPS, UAMT, "supervised"]
    assert (table.lower.dice, table.upper.dice) == pytest.approx((0.61, 0.81))
    cps, uamt = table.rows
    assert (cps.gain, cps.closed) == pytest.approx((0.05, 0.25))
    assert (uamt.gain, uamt.closed) == pytest.approx((-0.01, -0.05))
    assert table.n == 6
    assert cps.group.spread == pytest.approx(0.02 / 2**0.5)
    assert (cps.group.seconds, table.lower.seconds) == ({"cpu": 150.0}, {"cpu": 60.0})


def test_a_gain_is_over_the_baselines_runs_with_the_same_seeds(tmp_path):
    """Runs of one seed begin alike: a baseline that had luck with a seed had it for the method, too."""
    baseline, upper = seeds(dice=(0.6, 0.62, 0.2, 0.3)), seeds(labeled="all", dice=(0.8,))
    methods = [*seeds(CPS, dice=(0.65, 0.67)), content(UAMT, seed=3, dice=0.35), content("DHC", seed=9, dice=0.5)]
    [section] = sections(tmp_path, *baseline, *upper, *methods)
    cps, dhc, uamt = section.comparisons[0].rows
    assert (cps.gain, cps.closed) == pytest.approx((0.05, 0.05 / 0.19))
    assert cps.interval == pytest.approx((0.05, 0.05))
    assert (uamt.gain, uamt.closed) == pytest.approx((0.05, 0.1))
    assert dhc.gain == pytest.approx(0.5 - 0.43)  # the baseline lacks this seed: its mean
    assert section.comparisons[0].lower.dice == pytest.approx(0.43)


def test_p_is_of_paired_cases_and_corrected_in_the_table(tmp_path):
    def shifted(shifts):
        return {case: {"heart": 0.5 + shift} for case, shift in zip("abcde", shifts, strict=True)}

    found = sections(
        tmp_path,
        *(content(seed=seed, per_case=shifted([0] * 5)) for seed in (0, 1)),
        # of the two seeds of each case the mean counts: 0.01, 0.02, ... and for the other 0.01 ... 0.04, -0.05
        *(content(CPS, seed=seed, per_case=shifted([0.01 * k + s for k in range(1, 6)]))
          for seed, s in enumerate((0.2, -0.2))),
        *(content(UAMT, seed=seed, per_case=shifted([0.01, 0.02, 0.03, 0.04, -0.05])) for seed in (0, 1)),
    )  # fmt: skip
    cps, uamt = found[0].comparisons[0].rows
    assert (cps.p, uamt.p) == pytest.approx((2 / 32, 20 / 32))
    assert (cps.corrected, uamt.corrected) == pytest.approx((4 / 32, 20 / 32))
    assert cps.verdict == uamt.verdict == "no better: within chance"
    assert cps.closed is None and found[0].comparisons[0].upper is None


def test_a_case_is_the_mean_over_its_classes_and_the_seeds(tmp_path):
    first = {"a": {"x": 0.4, "y": 0.8}, "b": {"x": 0.5, "y": None}, "c": {"x": None, "y": None}}
    second = {"a": {"x": 0.6, "y": 1.0}, "b": {"x": 0.7, "y": None}, "c": {"x": None, "y": None}}
    [section] = sections(tmp_path, *(content(seed=seed, per_case=p) for seed, p in enumerate((first, second))))
    assert section.comparisons[0].lower.case_dice == pytest.approx({"a": 0.7, "b": 0.6})


@pytest.mark.parametrize(
    ("gain", "corrected", "claim", "verdict", "better"),
    [
        (0.1, 0.01, True, "better", True),
        (0.1, 0.2, True, "no better: within chance", False),
        (-0.1, 0.2, True, "no better", False),
        (0.0, 1.0, True, "no better", False),
        (-0.1, 0.01, True, "worse", False),
        (0.1, 0.01, False, "higher, but one seed: no claim", False),
        (-0.1, 0.01, False, "no better; one seed: no claim", False),
        (None, None, False, "no baseline", False),
    ],
)
def test_verdicts(gain, corrected, claim, verdict, better):
    row = Row(Group(()), gain, None, claim, corrected, corrected)
    assert (row.verdict, row.better) == (verdict, better)


def test_one_seed_of_either_is_no_claim(tmp_path):
    [section] = sections(tmp_path, *seeds(dice=(0.6,)), *seeds(CPS), *seeds(UAMT, dice=(0.7,)))
    assert not any(row.claim for row in section.comparisons[0].rows)


def test_other_iterations_and_other_definitions_are_never_in_one_table(tmp_path):
    records = make_sections(
        read_records([
            write(tmp_path / "short", *bounds(), *seeds(CPS)),
            write(tmp_path / "long", *(r | {"iterations": 20} for r in [*bounds(), *seeds(UAMT)])),
            write(tmp_path / "other", *seeds(CPS, dice=(0.9,), definition={"patch": [16, 16, 16]})),
        ])
    )  # fmt: skip
    assert [(s.suite, s.iterations, s.variant) for s in records] == [
        ("tiny", 10, "A"), ("tiny", 10, "B"), ("tiny", 20, ""),
    ]  # fmt: skip
    other = next(s for s in records if s.definition == {"patch": [16, 16, 16]})
    assert [group.dice for c in other.comparisons for group in c.groups] == pytest.approx([0.9])
    assert other.comparisons[0].lower is None
    assert [row.group.label for row in records[2].comparisons[0].rows] == [UAMT]
    assert len({s.slug for s in records}) == 3


def test_one_table_for_each_number_of_labels(tmp_path):
    [section] = sections(tmp_path, *bounds(), *seeds(CPS), *seeds(labeled=10, dice=(0.7,)), *seeds(CPS, 10))
    assert [c.labeled for c in section.comparisons] == [4, 10]
    assert [c.lower.dice for c in section.comparisons] == pytest.approx([0.61, 0.7])
    assert [c.upper.dice for c in section.comparisons] == pytest.approx([0.81, 0.81])


def test_what_changes_the_baseline_too_has_a_table_of_its_own(tmp_path):
    fast, both = {"initial_lr": 0.1}, {"initial_lr": 0.1, "weight": 2.0}
    [section] = sections(
        tmp_path,
        *bounds(),
        *seeds(CPS),
        *seeds(CPS, name="heavy", overrides={"weight": 2.0}),
        *seeds(name="fast", dice=(0.5, 0.5), overrides=fast),
        *seeds(CPS, name="fast", overrides=both),
    )
    plain, changed = sorted(section.comparisons, key=lambda c: -c.lower.dice)
    assert sorted(group.label for group in plain.methods) == [CPS, f"{CPS} (heavy) {{weight: 2}}"]
    assert plain.lower.label == "supervised" and plain.upper
    assert [group.label for group in changed.groups] == [
        "supervised (fast) {initial_lr: 0.1}", f"{CPS} (fast) {{initial_lr: 0.1, weight: 2}}",
    ]  # fmt: skip
    assert changed.rows[0].gain == pytest.approx(0.11) and changed.upper is None


def test_presets_are_not_seeds_of_one_training(tmp_path):
    published = {"preset": "published", "overrides": {"preset": "published"}}
    [section] = sections(tmp_path, *bounds(), *seeds(CPS), *seeds(CPS, dice=(0.5,), **published))
    assert [group.label for group in section.comparisons[0].methods] == [CPS, f"{CPS} (published)"]


def test_bounds_alone(tmp_path):
    [section] = sections(tmp_path / "both", *bounds())
    [table] = section.comparisons
    assert table.rows == [] and table.lower and table.upper
    [section] = sections(tmp_path / "upper", *seeds(labeled="all"))
    assert [c.labeled for c in section.comparisons] == ["all"]


def test_records_that_cannot_be_compared(tmp_path):
    write(tmp_path / "a", content())
    write(tmp_path / "b", content())
    with pytest.raises(InputError, match="are the same run: keep one of them"):
        make_sections(read_records([tmp_path]))
    other = {case: {"heart": 0.5} for case in "xyz"}
    with pytest.raises(InputError, match="other test cases or classes"):
        sections(tmp_path, content(), content(CPS, per_case=other))


@pytest.mark.parametrize("role", ["train", "val", "hidden"])
def test_rows_of_other_folds_are_not_compared(tmp_path, role):
    same = [*seeds(origin=origin()), content(CPS, origin=origin(unlabeled="2", plans="2"))]
    assert len(sections(tmp_path / "same", *same, *seeds(labeled="all", origin=origin(train="2")))) == 1
    assert len(sections(tmp_path / "older", *same, content(CPS, seed=1))) == 1  # it does not tell its folds
    with pytest.raises(InputError, match=rf"CPS.*supervised.*were trained on other folds \({role} differ\)"):
        sections(tmp_path / "other", *seeds(origin=origin()), content(CPS, origin=origin(**{role: "2"})))


def test_another_baseline_is_the_lower_bound_below_the_supervised_upper_one(tmp_path):
    mix = "SupervisedMix"
    sections(tmp_path, *bounds(), *seeds(mix, dice=(0.65, 0.67)), *seeds(CPS, dice=(0.70, 0.72)))
    [section] = make_sections(read_records([tmp_path / "records"]), mix)
    [table] = section.comparisons
    assert [group.label for group in table.groups] == [mix, CPS, "supervised", "supervised"]
    assert (table.lower.dice, table.upper.dice, table.variant) == (pytest.approx(0.66), pytest.approx(0.81), mix)
    cps, supervised = table.rows
    assert (cps.gain, cps.closed) == pytest.approx((0.05, 1 / 3))
    assert supervised.gain == pytest.approx(-0.05)
    with pytest.raises(InputError, match="--baseline DHC: there is no record of it"):
        make_sections(read_records([tmp_path / "records"]), "DHC")
