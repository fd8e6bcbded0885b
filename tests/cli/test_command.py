"""The command itself: its verbs, several values for one option, names, and faults as one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from nnunet_ssl import __version__, cli
from nnunet_ssl.cli import app, spread
from nnunet_ssl.data.plans import require_configurations
from nnunet_ssl.data.raw import dataset_id
from nnunet_ssl.errors import InputError

COMMAND = Path(sys.executable).parent / "nnunet_ssl"
VERBS = list(typer.main.get_command(app).commands)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("preprocess -d 18 -c 2d 3d_fullres -np 4", "preprocess -d 18 -c 2d -c 3d_fullres -np 4"),
        ("preprocess -d 18 Dataset003_X", "preprocess -d 18 -d Dataset003_X"),
        ("run --methods A --baseline", "run --methods A --baseline Supervised"),
        ("run --baseline --methods A B -f 0 1", "run --baseline Supervised --methods A --methods B -f 0 -f 1"),
        ("run --baseline SupervisedMix --folds 0 1", "run --baseline SupervisedMix --folds 0 --folds 1"),
        ("run --baseline=SupervisedMix", "run --baseline=SupervisedMix"),
        ("run -tr A B -f 0 1 -device cpu", "run -tr A -tr B -f 0 -f 1 -device cpu"),
        ("backbone -d 1 --network vnet -c 2d 3d_fullres -o X", "backbone -d 1 --network vnet -c 2d -c 3d_fullres -o X"),
        ("export -f 0 -o OUT", "export -f 0 -o OUT"),
        ("suggest -d 1 -f 0 1 -n 5", "suggest -d 1 -f 0 -f 1 -n 5"),
        ("run --folds --seeds 0", "run --folds --seeds 0"),
        ("evaluate A B -c x y", "evaluate A B -c x y"),
        ("", ""),
    ],
)
def test_options_with_several_values(given, expected):
    assert spread(given.split(), typer.main.get_command(app)) == expected.split()


def test_help_names_every_verb_on_the_road_and_is_fast_to_import():
    text = subprocess.run([COMMAND, "--help"], capture_output=True, encoding="utf-8", check=True).stdout
    listed = [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line[2:3].strip()]
    assert sorted(listed) == sorted(VERBS)
    assert listed[:4] == ["demo", "convert", "check", "preprocess"]
    assert listed.index("estimate") < listed.index("run") < listed.index("compare") < listed.index("suggest")
    assert "..." not in text.partition("Commands:")[2]  # no sentence is cut
    code = "import sys, nnunet_ssl.cli; assert not {'torch', 'nnunetv2', 'SimpleITK', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_fits_80_columns_and_needs_no_torch(verb):
    code = (
        "import sys; from nnunet_ssl.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'nnunetv2', 'SimpleITK', 'numpy'} & set(sys.modules), 'heavy'"
    )
    run = [sys.executable, "-c", code, verb, "-h"]
    done = subprocess.run(run, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.startswith(f"Usage: nnunet_ssl {verb}")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_names_of_options_are_nnunets_and_the_older_ones_stay():
    options = {
        verb: {name for each in command.params for name in each.opts}
        for verb, command in typer.main.get_command(app).commands.items()
    }
    for verb, names in options.items():
        if verb not in ("convert", "methods", "evaluate", "compare", "report", "demo"):
            assert {"-d", "--dataset-id"} <= names, verb
        assert ("-c" in names) == ("--configuration" in names), verb
        assert ("--plans" in names) == ("-p" in names), verb
        assert ("--device" in names) == ("-device" in names), verb
    assert {"-tr", "--methods", "-f", "--folds", "-device", "--device"} <= options["run"]
    assert {"-tr", "-f", "-chk", "-o"} <= options["export"]


def test_python_dash_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_ssl", "--version"], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == f"nnunet_ssl {__version__}\n"


def test_the_shell_completes_verbs_and_trainers():
    def completed(words):
        environment = {
            "_NNUNET_SSL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        done = subprocess.run([COMMAND], capture_output=True, encoding="utf-8", env=os.environ | environment)
        return done.stdout.split()

    assert set(completed("nnunet_ssl pre")) == {"preprocess", "predict_next_stage"}
    assert completed("nnunet_ssl export -tr BC") == ["BCP"]
    assert completed("nnunet_ssl export -tr nnUNetTrainerBC") == ["nnUNetTrainerBCP"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["preproces", "-d", "3"], "There is no `nnunet_ssl preproces`. Did you mean preprocess"),
        (["convert", "synaps"], "There is no `convert synaps`. Did you mean synapse"),
        (["methods", "BPC"], "There is no method 'BPC'. Did you mean BCP"),
    ],
)
def test_a_wrong_name_gets_the_nearest_and_all(called, given, expected):
    status, _, said = called(*given)
    assert status == 1 and said.startswith(f"nnunet_ssl: {expected}")
    assert "There are " in said and said.count("\n") == 1


def test_a_dataset_is_found_by_number_and_by_name(tmp_path, monkeypatch):
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path))
    (tmp_path / "Dataset018_Heart").mkdir()
    assert dataset_id("18") == dataset_id("018") == dataset_id("Dataset018_Heart") == 18
    with pytest.raises(InputError, match="no dataset 'Dataset018_Hart'. Did you mean Dataset018_Heart"):
        dataset_id("Dataset018_Hart")
    with pytest.raises(InputError, match="no dataset 'Heart'. .*There are Dataset018_Heart"):
        dataset_id("Heart")


def test_a_wrong_configuration_gets_the_nearest():
    with pytest.raises(InputError, match="no configuration 3d_fulres. Did you mean 3d_fullres.*There are 2d"):
        require_configurations(["3d_fulres"], ["2d", "3d_fullres", "3d_lowres"], Path("P.json"))
    require_configurations(["2d"], ["2d"], Path("P.json"))


def test_help_may_stand_before_the_name_of_a_data_set(called):
    status, text, _ = called("convert", "--help", "la")
    assert status == 0 and text == called("convert", "la", "-h")[1]
    assert text.startswith("Usage: nnunet_ssl convert la")


def test_a_fault_is_one_line_and_exit_status_one(tmp_path):
    done = subprocess.run(
        [COMMAND, "split", "-d", "3"],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={"PATH": "", "nnUNet_raw": str(tmp_path), "nnUNet_preprocessed": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("nnunet_ssl: No dataset has the id 3")
    assert done.stderr.count("\n") == 1


def test_every_verb_has_a_module_of_its_name():
    assert all((Path(cli.__file__).parent / f"{verb}.py").is_file() for verb in VERBS)
