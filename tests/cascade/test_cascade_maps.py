"""In the second stage of a cascade the maps of labeled cases come beside images that have the first stage's labels."""

import json
from dataclasses import replace

import torch
from nnunetv2.run.run_training import get_trainer_from_args
from two_stages import CPU, SECOND, SHORT, TRAINER, fold_of

from nnunet_ssl.methods.mean_teacher import MeanTeacher


def test_the_second_stage_has_maps_of_the_cases_whose_label_it_may_see(predicted, tmp_path, monkeypatch, in_process):
    dataset = predicted.copy(tmp_path).use(monkeypatch)
    monkeypatch.setenv("nnUNet_ssl_config", json.dumps(SHORT))
    seen, made = [], []

    class WithMaps(MeanTeacher):
        def case_maps(self, case, segmentation, spacing):
            made.append(case)
            return (segmentation == 1)[None]

        def losses(self, net, labeled, unlabeled, now):
            seen.append(labeled)
            return super().losses(net, labeled, unlabeled, now)

    trainer = get_trainer_from_args(dataset.name, SECOND, 0, TRAINER, dataset.plans, False, CPU)
    trainer.settings = replace(trainer.settings, chosen=WithMaps)
    trainer.run_training()
    assert made == fold_of(dataset)["train"] and len(fold_of(dataset)["unlabeled"]) == 1
    assert len(seen) == 2
    for labeled in seen:
        assert labeled.image.shape[1:] == (3, 16, 16, 16)  # the image, and the first stage's two classes
        assert set(labeled.image[:, 1:].unique().tolist()) <= {0.0, 1.0}
        sure = (labeled.maps - 0.5).abs() > 0.45
        assert labeled.maps.shape == labeled.target.scales[0].shape
        assert torch.equal((labeled.maps > 0.5)[sure], (labeled.target.scales[0] == 1)[sure])
