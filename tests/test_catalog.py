"""The catalog holds every method in full; a method's four places are there, and what is made of them is current."""

import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from accuracy_records import content, write

from nnunet_ssl import catalog, listing, methods
from nnunet_ssl.catalog import documented_arguments, page, read_catalog, read_entry
from nnunet_ssl.errors import InputError
from nnunet_ssl.facts import read_facts
from nnunet_ssl.method import Method
from nnunet_ssl.report.comparison import make_sections
from nnunet_ssl.report.records import read_records

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = read_catalog()
BY_NAME = {entry.name: entry for entry in ENTRIES}


@pytest.fixture(scope="module")
def make_methods():
    """The script docs/make_methods.py as a module."""
    spec = importlib.util.spec_from_file_location("make_methods", ROOT / "docs" / "make_methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_trainer_with_a_method_is_in_the_catalog_once():
    listed = [trainer.name for entry in ENTRIES for trainer in entry.trainers]
    files = {file.stem.removeprefix("nnUNetTrainer") for file in (ROOT / "trainers").glob("nnUNetTrainer*.py")}
    assert sorted(listed) == sorted(files - {"Supervised"})
    assert {"MeanTeacher", "UAMT", "CPS", "DHC"} <= set(BY_NAME)


def implemented() -> set[type[Method]]:
    """All methods of the folder, but for bases of several and for steps that are a preset of another."""
    modules = [
        importlib.import_module(f"{methods.__name__}.{each.name}") for each in pkgutil.iter_modules(methods.__path__)
    ]
    found = {each for module in modules for each in vars(module).values() if inspect.isclass(each)}
    found = {
        each
        for each in found
        if issubclass(each, Method) and each.losses is not Method.losses and not inspect.isabstract(each)
    }
    return found - {preset for each in found for preset in each.presets.values() if inspect.isclass(preset)}


def test_a_method_has_a_trainer_facts_and_tests():
    """Its facts are asked for by `read_catalog`, its row and page by `test_the_pages_are_current`."""
    needed = [
        file
        for method in implemented()
        for file in (
            f"trainers/nnUNetTrainer{method.__name__}.py",
            f"tests/methods/test_{method.__module__.rpartition('.')[2]}.py",
        )
    ]
    missing = [file for file in sorted(needed) if not (ROOT / file).is_file()]
    assert not missing, f"add {', '.join(missing)}"
    assert {entry.method for entry in ENTRIES} == implemented()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_method_is_complete(entry):
    assert entry.trainers[0].name == entry.name and not entry.trainers[0].defaults
    assert entry.idea == " ".join(inspect.getdoc(entry.method).split("\n\n", 1)[0].split())
    assert entry.idea.endswith(".") and "Args" not in entry.idea
    for trainer in entry.trainers:  # the listing reads files; what is imported says the same
        module = importlib.import_module(f"nnunet_ssl.trainers.nnUNetTrainer{trainer.name}")
        found = getattr(module, f"nnUNetTrainer{trainer.name}")
        stated = (found.method, inspect.getdoc(found), found.defaults)
        assert stated == (entry.method, trainer.summary, trainer.defaults)
    assert "\n    " in entry.formula
    parameters = entry.hyperparameters
    assert {h.name: h.default for h in parameters} == entry.method.hyperparameters()
    assert [h.name for h in parameters if not h.meaning] == []


def test_hyperparameters_with_default_published_value_symbol_and_meaning():
    mean_teacher = {h.name: h for h in BY_NAME["MeanTeacher"].hyperparameters}
    decay = mean_teacher["ema_decay"]
    assert (decay.default, decay.published, decay.symbol) == (0.99, 0.99, "alpha")
    assert decay.meaning == "limit of the teacher's decay per step."
    assert (mean_teacher["weight"].default, mean_teacher["weight"].symbol) == (0.1, "lambda")
    assert mean_teacher["noise"].symbol == "" and mean_teacher["noise"].meaning.startswith("standard deviation of eps")
    uamt = {h.name: h for h in BY_NAME["UAMT"].hyperparameters}
    assert (uamt["passes"].default, uamt["passes"].symbol) == (8, "T")
    assert uamt["ema_decay"] == decay  # inherited
    assert "mean_teacher" not in uamt


def test_variants_stand_behind_the_plain_trainer():
    assert [(trainer.name, trainer.defaults) for trainer in BY_NAME["DHC"].trainers] == [
        ("DHC", {}),
        ("DHC_diffOnly", {"weighting": "difficulty"}),
        ("DHC_distOnly", {"weighting": "distribution"}),
        ("DHC_labeledOnly", {"weight": 0.0}),
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("MeanTeacher", "MeanTeacher"),
        ("meanteacher", "MeanTeacher"),
        ("nnUNetTrainerCPS", "CPS"),
        ("UA-MT", "UAMT"),
        ("dhc_distonly", "DHC"),
    ],
)
def test_a_method_is_found_by_any_of_its_names(asked, found):
    assert read_entry(asked).name == found


def test_a_wrong_name_gets_the_nearest_one_or_all():
    with pytest.raises(InputError, match="no method 'MeanTeecher'. Did you mean MeanTeacher"):
        read_entry("MeanTeecher")
    with pytest.raises(InputError, match="There are .*CPS, .*UAMT"):
        read_entry("zzzzzz")
    with pytest.raises(InputError, match="no method ''"):
        read_entry("")


def test_a_method_without_facts_is_named(monkeypatch):
    facts = read_facts()
    del facts["CPS"]
    monkeypatch.setattr(listing, "read_facts", lambda: facts)
    with pytest.raises(InputError, match="facts.yaml lacks CPS: add"):
        read_catalog()
    facts |= {"CPS": facts["DHC"], "Elsewhere": facts["DHC"]}
    with pytest.raises(InputError, match="facts.yaml has Elsewhere, which no trainer"):
        read_catalog()


def test_arguments_of_a_docstring():
    docstring = """Idea.

        Args:
            first: alpha, what it is
                and goes on: here.
            second: short.

        Raises:
            ValueError: never.
        """
    assert documented_arguments(docstring) == {"first": "alpha, what it is and goes on: here.", "second": "short."}
    assert documented_arguments("None here.") == {}


def test_a_page_has_formulas_hyperparameters_presets_and_figures():
    text = page(BY_NAME["CPS"])
    assert "CE(f1(x_u), y2)" in text  # as it stands in the file, not escaped
    assert "| `weight` | 0.1 | 0.2 | lambda | weight of the " in text
    assert "- preset `official`: `{weight: 1.5, rampup: 0, labeled_too: true}`" in text
    assert "| ACDC | 7 of 70 | 2D U-Net | 83.3 | 11.0 |  | arXiv 2410.13486, table I |" in text
    assert "nnUNet_ssl_config='{weight: 0.1}' nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerCPS\n" in text


@pytest.mark.skipif(
    not (ROOT / "benchmarks" / "results").is_dir(), reason="a source archive leaves the results of benchmarks out"
)
def test_the_pages_are_current(make_methods):
    expected = make_methods.pages()
    files = {ROOT / name for name in expected} | set((ROOT / "docs" / "methods").glob("*.md"))
    written = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files if file.is_file()}
    stale = sorted(name for name in expected.keys() | written.keys() if expected.get(name) != written.get(name))
    assert not stale, f"run python docs/make_methods.py: it makes another {', '.join(stale)}"


def test_the_index_names_methods_papers_costs_who_predicts_and_every_trainer(make_methods):
    index = make_methods.index(ENTRIES)
    rows = index.splitlines()
    [dhc] = [row for row in rows if row.startswith("| [DHC](DHC.md) | Wang and Li, MICCAI 2023 |")]
    assert ". Also `nnUNetTrainerDHC_diffOnly`, " in dhc and "| mean of both | 2 |" in dhc
    assert rows[-1].startswith("| Supervised |") and rows[-1].endswith("| student | 0.5 | 1.0 | 1.0 |  |")
    listed = {f"nnUNetTrainer{name}" for name in re.findall(r"^\| \[?(\w+)", index, re.MULTILINE)}
    listed |= set(re.findall(r"`(nnUNetTrainer\w+)`", index))
    assert {file.stem for file in (ROOT / "trainers").glob("nnUNetTrainer*.py")} - listed == set()


def test_a_table_needs_its_markers(make_methods):
    begin, end = make_methods.BEGIN.format("gains"), make_methods.END.format("gains")
    assert make_methods.with_table(f"before {begin}old{end} after", "page.md", "gains", "new") == (
        f"before {begin}new{end} after"
    )
    with pytest.raises(InputError, match="page.md needs the lines <!-- gains: .* and <!-- end of gains -->"):
        make_methods.with_table("no markers", "page.md", "gains", "new")


def test_the_index_has_what_was_measured_of_a_step_and_nothing_else(make_methods):
    rows = {
        "nnUNetTrainerSupervised": {"ratio": 1.0, "memory_mb": 40.0},
        "nnUNetTrainerCPS": {"ratio": 1.046, "memory_mb": 170.0},
    }
    assert make_methods.measured_step(rows, "CPS") == ("1.05", "4.2")
    assert make_methods.measured_step(rows, "DHC") == ("", "")


def test_a_gain_stands_out_only_where_chance_did_not_make_it(make_methods, tmp_path):
    def run(method, labeled, seed, dice, uneven=0.0, **changes):
        """Of 12 test cases; `uneven` is added to and taken from every other one."""
        cases = {f"case{i:02d}": {"heart": dice + uneven * (-1) ** i} for i in range(12)}
        return content(method, labeled, seed, per_case=cases, **changes)

    records = write(
        tmp_path,
        run("supervised", 8, 0, 0.80), run("supervised", 8, 1, 0.84), run("supervised", "all", 0, 0.92),
        run("MeanTeacher", 8, 0, 0.85), run("MeanTeacher", 8, 1, 0.87),
        run("UAMT", 8, 0, 0.90), run("UAMT", 8, 1, 0.83),  # the second lies among the baseline's
        run("CPS", 8, 0, 0.90),  # one seed
        run("CCT", 8, 0, 0.85, uneven=0.1), run("CCT", 8, 1, 0.85, uneven=0.1),  # half of the cases lose
        run("ICT", 8, 0, 0.70), run("ICT", 8, 1, 0.76),
        run("BCP", 8, 0, 0.90, overrides={"weight": 10.0}), run("BCP", 8, 1, 0.90, preset="published"),
        run("MeanTeacher", 16, 0, 0.90),  # no baseline
    )  # fmt: skip
    assert make_methods.gains(make_sections(read_records([records]))).splitlines() == [
        "| method | tiny<br>10 iterations<br>8 labeled |",
        "| --- | --- |",
        "| baseline's Dice, % | 82.00 ± 2.83 |",
        "| all labels | +10.0 |",
        '| CPS | <span class="chance">+10.0 (1)</span> |',  # over the baseline's run of the same seed
        '| UAMT | <span class="chance">+4.5 (2)</span> |',
        "| MeanTeacher | **+4.0 (2)** |",
        '| CCT | <span class="chance">+3.0 (2)</span> |',
        "| ICT | **−9.0 (2)** |",
    ]


def figures(make_methods, folder, name, *records):
    """The lines of a method's own figures."""
    return make_methods.measured(BY_NAME[name], make_sections(read_records([write(folder, *records)]))).splitlines()


def test_our_figures_stand_between_both_bounds(make_methods, tmp_path):
    without_distance = content("MeanTeacher", 8, 0, 0.83, postprocessed=0.84)
    without_distance["metrics"]["hd95_mm"]["mean"] = None  # no prediction held the class
    lines = figures(
        make_methods, tmp_path, "MeanTeacher",
        content("supervised", 8, 0, 0.80, postprocessed=0.81),
        content("supervised", 8, 1, 0.84, postprocessed=0.85),
        content("supervised", 8, 0, 0.99, overrides={"initial_lr": 0.1}, name="fast"),
        content("supervised", "all", 0, 0.92),
        without_distance,
        content("MeanTeacher", 8, 1, 0.87),
        content("MeanTeacher", 8, 0, 0.77, preset="published"),
        content("MeanTeacher", 8, 0, 0.92, name="strong", overrides={"weight": 10.0}),
        content("MeanTeacher", 16, 0, 0.90),
        content("UAMT", 8, 0, 0.1),
    )  # fmt: skip
    assert [line for line in lines if line.startswith("#")] == [
        "## Our figures",
        "### tiny, 10 iterations, 8 labeled",
        "### tiny, 10 iterations, 16 labeled",
    ]
    assert lines[10:15] == [
        "| supervised, 8 labeled | 0 1 | 82.00 ± 2.83 | 83.00 ± 2.83 | 8.20 ± 0.28 |  |",
        "| MeanTeacher (strong) {weight: 10} | 0 | 92.00 |  | 9.20 | 100% |",
        "| MeanTeacher | 0 1 | 85.00 ± 2.83 |  | 8.70 | 30% |",  # only one seed was postprocessed
        "| MeanTeacher (published) | 0 | 77.00 |  | 7.70 | −25% |",  # of the way from seed 0's 80.00
        "| supervised, all labeled | 0 | 92.00 |  | 9.20 |  |",
    ]


def test_missing_figures_are_said(make_methods, tmp_path):
    alone = content("UAMT", 8, 0, 0.5)
    assert figures(make_methods, tmp_path, "CPS", alone)[-1] == "Not measured yet."
    lines = figures(make_methods, tmp_path, "UAMT", alone)
    assert "| supervised, all labeled | 0 | not measured yet |  |  |  |" in lines
    assert "| UAMT | 0 | 50.00 |  | 5.00 |  |" in lines


def test_text_of_values_and_cells():
    assert catalog.mapping_text({"a": 0.0, "b": True, "c": "half", "d": 8}) == "{a: 0, b: true, c: half, d: 8}"
    assert catalog.table(("a", "b"), [("|x|", 1)]).splitlines()[-1] == r"| \|x\| | 1 |"


def test_formulas_are_boxed_and_text_is_not_taken_for_markdown():
    docstring = "Text with x_u * y < 1 and `x_u`.\n\n      a = b_c\n    d\n\n    e\n\nMore."
    assert catalog.formula_text(docstring) == (
        "Text with x\\_u \\* y \\< 1 and `x_u`.\n\n```text\n  a = b_c\nd\n\ne\n```\n\nMore."
    )
