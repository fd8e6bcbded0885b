"""The page docs/add_a_method.md to the letter: its files, its quick tests and its commands, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from workbench import prepare

import nnunet_ssl
from nnunet_ssl.training.progress import PREFIX

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "add_a_method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
QUICK_TEST, DATA, TRY = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
CASES = ["phantom_013.png", "phantom_014.png"]


def bash(folder: Path, script: str) -> str:
    """Runs commands as a user's shell does, with nothing of nnU-Net's set; gives what they print."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    environment |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "nnUNet_npp": "0", "nnUNet_nps": "0"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that holds the files of the page."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def check_trained_and_predicted(folder: Path) -> None:
    model = folder / "results" / "Dataset007_Phantom" / "nnUNetTrainerPiModel__nnUNetPlans__2d" / "fold_0"
    (log,) = model.glob("training_log_*.txt")
    assert f"nnUNetTrainerPiModel of {folder / 'my_trainers' / 'pi_model.py'}" in log.read_text(encoding="utf-8")
    content = torch.load(model / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert content["semi_supervised"]["hyperparameters"] == {"weight": 10.0, "rampup": 0.3}
    terms = {key: values for key, values in content["logging"].items() if key.startswith(PREFIX)}
    named = {name.partition("[")[0] for name in terms}
    assert named == {f"{PREFIX}{name}" for name in ("supervised", "consistency", "predicted_share")}
    for name, values in terms.items():  # a share may be 0 after so few steps
        assert len(values) == 2 and np.isfinite(values).all() and min(values) >= 0
        assert min(values) > 0 or "predicted_share" in name
    images = folder / "raw" / "Dataset007_Phantom" / "imagesTs"
    assert sorted(file.name for file in (folder / "predicted").glob("*.png")) == CASES
    for name in CASES:
        segmentation, _ = NaturalImage2DIO().read_seg(str(folder / "predicted" / name))
        image, _ = NaturalImage2DIO().read_images([str(images / name.replace(".png", "_0000.png"))])
        assert segmentation.shape == image.shape and set(np.unique(segmentation)) <= set(range(5))


def test_all_code_of_the_page_is_run_here():
    assert list(FILES) == ["my_trainers/pi_model.py", "test_pi_model.py"]
    assert PAGE.count("```python") == len(FILES) and PAGE.count("```") == 2 * (len(FILES) + 3 + 1)  # one algorithm box
    assert len(FILES["my_trainers/pi_model.py"].splitlines()) < 50


@pytest.mark.slow
def test_its_method_is_tested_trains_and_predicts(folder):
    """With a tiny plan in place of nnU-Net's, made in this process."""
    folders, (draw, _) = DATA.splitlines()[0], DATA.split("nnUNetv2_", 1)
    prepare(folder, "2d", [32, 32], lambda raw: bash(folder, draw), plans_name="nnUNetPlans")
    assert "6 passed" in bash(folder, f"{QUICK_TEST}{folders}\n{TRY}")
    check_trained_and_predicted(folder)


@pytest.mark.long
def test_the_whole_page_in_an_empty_folder(folder):
    assert "6 passed" in bash(folder, QUICK_TEST + DATA + TRY)
    check_trained_and_predicted(folder)


def test_what_an_author_imports_costs_nothing_until_it_is_asked_for():
    code = "import sys, nnunet_ssl; print({'numpy', 'torch', 'nnunetv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "set()\n"
    assert all(getattr(nnunet_ssl, name).__name__ == name for name in nnunet_ssl.__all__)


def test_the_page_imports_the_public_face_alone():
    imported = re.findall(r"(?:from|import) (nnunet_ssl[.\w]*)", "".join(FILES.values()))
    assert set(imported) == {"nnunet_ssl"}
