"""The command itself: its verbs, several values for one option, and faults as one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ssl.cli import spread

COMMAND = Path(sys.executable).parent / "nnunet_ssl"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("preprocess -d 18 -c 2d 3d_fullres -np 4", "preprocess -d 18 -c 2d -c 3d_fullres -np 4"),
        ("run --methods A B --folds 0 1 --baseline", "run --methods A --methods B --folds 0 --folds 1 --baseline"),
        ("backbone -d 1 --network vnet -c 2d 3d_fullres -o X", "backbone -d 1 --network vnet -c 2d -c 3d_fullres -o X"),
        ("export -f 0 -o OUT", "export -f 0 -o OUT"),
        ("run --folds --seeds 0", "run --folds --seeds 0"),
        ("evaluate A B -c x y", "evaluate A B -c x y"),
        ("", ""),
    ],
)
def test_options_with_several_values(given, expected):
    assert spread(given.split()) == expected.split()


def test_help_names_every_verb_and_is_fast_to_import():
    text = subprocess.run([COMMAND, "--help"], capture_output=True, encoding="utf-8", check=True).stdout
    training = ("convert", "preprocess", "check", "split", "methods", "backbone", "run")
    for verb in (*training, "adopt", "export", "evaluate", "report", "demo"):
        assert f" {verb} " in text
    code = "import sys, nnunet_ssl.cli; assert not {'torch', 'nnunetv2', 'SimpleITK'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


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
