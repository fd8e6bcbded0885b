"""The log of terms per epoch and its pictures."""

import math

import numpy as np
from PIL import Image

from nnunet_ssl.training.progress import ProgressLogger, grouped


def logger(epochs=3):
    made = ProgressLogger()
    for epoch in range(epochs):
        for key in list(made.my_fantastic_logging):
            if not key.startswith("semi_supervised/"):
                made.log(key, float(epoch) if key != "dice_per_class_or_region" else [0.5], epoch)
        made.log_terms({"consistency": 0.1 * epoch, "weight[liver]": 1.0, "weight[gland]": 2.0 + epoch}, epoch)
    return made


def test_terms_that_begin_or_end_late_are_filled_up():
    made = ProgressLogger()
    made.log_terms({"a": 1.0}, 0)
    made.log_terms({"a": 2.0, "b": 5.0}, 1)
    made.log_terms({"b": 6.0}, 2)
    assert made.terms()["a"][:2] == [1.0, 2.0] and math.isnan(made.terms()["a"][2])
    assert math.isnan(made.terms()["b"][0]) and made.terms()["b"][1:] == [5.0, 6.0]


def test_an_epoch_logged_again_after_a_resume_replaces_its_value():
    made = ProgressLogger()
    for epoch, value in ((0, 1.0), (1, 2.0), (1, 3.0)):
        made.log_terms({"a": value}, epoch)
    assert made.terms()["a"] == [1.0, 3.0]


def test_classes_of_one_term_share_a_panel():
    panels = grouped({"loss": [1.0], "class_weight_A[liver]": [2.0], "class_weight_A[gland]": [3.0]})
    assert panels == {"loss": {"": [1.0]}, "class weight A": {"liver": [2.0], "gland": [3.0]}}


def test_pictures_are_drawn_below_nnunets_and_beside_it(tmp_path):
    logger().plot_progress_png(str(tmp_path))
    page = np.asarray(Image.open(tmp_path / "progress.png"))
    assert page.shape[1] == 3000 and page.shape[0] == 5400 + 900
    assert (page[5400:] != 255).any(axis=-1).mean() > 0.01
    per_class = np.asarray(Image.open(tmp_path / "per_class.png"))
    assert (per_class != 255).any(axis=-1).mean() > 0.01


def test_names_of_classes_are_no_formulas(tmp_path):
    made = logger()
    made.log_terms({f"weight[{name}]": 1.0 for name in ("a$b_{$", "_organ", "$")} | {"a$ $": 1.0}, 3)
    made.plot_progress_png(str(tmp_path))
    assert (tmp_path / "per_class.png").is_file()


def test_without_terms_the_picture_is_nnunets_own(tmp_path):
    made = ProgressLogger()
    for key in list(made.my_fantastic_logging):
        made.log(key, 1.0 if key != "dice_per_class_or_region" else [0.5], 0)
    made.plot_progress_png(str(tmp_path))
    assert Image.open(tmp_path / "progress.png").size == (3000, 5400)
    assert not (tmp_path / "per_class.png").exists()


def test_the_history_survives_a_checkpoint():
    made, restored = logger(), ProgressLogger()
    restored.load_checkpoint(made.get_checkpoint())
    assert restored.terms() == made.terms()
