"""The test cases of one trained fold, predicted by its final checkpoint and measured: a program that `run` starts.

It ends with `fold_K/test/metrics.json`, beside the predictions, or without that folder.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from nnunet_ssl.commands import find_command
from nnunet_ssl.data.origin import read_origin
from nnunet_ssl.data.raw import listed, raw_folder, read_dataset_json
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter, write_json
from nnunet_ssl.machine import processes
from nnunet_ssl.results.evaluation import evaluate_folders
from nnunet_ssl.results.measured import METRICS_FILE, TEST_FOLDER

IMAGES, LABELS = "imagesTs", "labelsTs"
MODULE = "nnunet_ssl.runner.testing"


def require_test_cases(dataset_id: int) -> Path:
    """The raw dataset's folder. Raises InputError unless it has test images and test labels."""
    raw = raw_folder(dataset_id)
    for folder in (raw / IMAGES, raw / LABELS):
        if not folder.is_dir() or all(is_clutter(path.name) for path in folder.iterdir()):
            raise InputError(f"--test: {folder} is missing or empty. Put the test cases there, or leave --test out.")
    return raw


def measure_fold(raw: Path, fold_folder: Path, predict: list[str]) -> None:
    """Predicts and measures aside, and gives the folder its name at the end.

    Args:
        predict: `nnUNetv2_predict` with its options but for input and output.

    Raises:
        InputError: the fold has learned test cases, or they cannot be measured.
        subprocess.CalledProcessError: the prediction failed.
    """
    ending = read_dataset_json(raw / "dataset.json")["file_ending"]
    cases = {path.name.removesuffix(ending) for path in (raw / LABELS).iterdir()}
    origin = read_origin(fold_folder)
    if origin and (learned := sorted(cases & {*origin.learned})):
        raise InputError(f"{fold_folder} has learned test cases: {listed(learned, separator=', ')}. Train it anew.")
    final = fold_folder / TEST_FOLDER
    partial = final.with_name(f".{TEST_FOLDER}.partial")
    for folder in (partial, final):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([*predict, "-i", str(raw / IMAGES), "-o", str(partial)], check=True)
    result = evaluate_folders(raw / LABELS, partial, raw / "dataset.json", processes())
    write_json(result | {"prediction": str(final)}, partial / METRICS_FILE)
    os.rename(partial, final)


def main() -> None:
    """Reads the arguments of :func:`measure_fold`: DATASET_ID FOLD_FOLDER, then the options of `nnUNetv2_predict`."""
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("dataset_id", type=int)
    parser.add_argument("fold_folder", type=Path)
    asked, options = parser.parse_known_args()
    try:
        raw = require_test_cases(asked.dataset_id)
        predict = [find_command("nnUNetv2_predict"), "-d", str(asked.dataset_id), *options]
        measure_fold(raw, asked.fold_folder, predict)
    except InputError as error:
        sys.exit(f"nnunet_ssl: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"nnunet_ssl: nnUNetv2_predict ended with status {error.returncode}; its own words stand above")


if __name__ == "__main__":
    main()
