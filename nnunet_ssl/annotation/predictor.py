"""nnU-Net's predictor with hooks: one sliding window over a case gives its logits and all that scores need.

The maps of a window become further channels behind the logits, so that nnU-Net weights and averages them as it does
these; the logits stay nnU-Net's own, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, autocast, nn

from nnunet_ssl.annotation.scores import CaseScores, Disagreement, Tally, directions, instability
from nnunet_ssl.networks.average import Average
from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.networks.taps import outputs_of
from nnunet_ssl.training.task_of_trainer import channels_of, kind_of

SLAB = 2**24  # numbers of a slab's logits: what is done to all voxels at once is done to so many


@dataclass(frozen=True)
class Scored:
    """A case as the model sees it, on the training grid.

    Attributes:
        logits: mean over folds, (C, *spatial), float16 on the CPU, as nnU-Net's predictor gives them.
        segmentation: (*spatial).
        uncertainty: entropy over the largest possible one, 0..255, (*spatial).
    """

    scores: CaseScores
    logits: Tensor
    segmentation: np.ndarray
    uncertainty: np.ndarray


class ScoringPredictor(nnUNetPredictor):
    """Predicts as nnU-Net does; call `begin` once it has a trained model."""

    def begin(self) -> None:
        """Looks at networks and labels."""
        self.network = unwrap(self.network)  # hooks on a compiled network would need it compiled anew
        self.labels = self.label_manager
        self.kind = kind_of(self.labels)
        self.names = channels_of(self.labels, self.dataset_json)[self.kind.background :]
        self.parts = unets_of(self.network)
        mirrored = self.use_mirroring and self.allowed_mirroring_axes
        self.compares_passes = bool(mirrored) and len(self.list_of_parameters) == 1
        self.window_means: list[Tensor] = []  # bottleneck features of each window, (features,)
        further = bool(self.parts) + self.compares_passes
        # all that nnU-Net's sliding window asks of labels
        self.label_manager = SimpleNamespace(num_segmentation_heads=self.kind.channels + further)
        self.heads = [self._head(parameters) for parameters in self.list_of_parameters] if self.parts else []

    @property
    def gives(self) -> set[str]:
        """The scores that this model has beside those of all models."""
        information = self.compares_passes or len(self.list_of_parameters) > 1
        return {*(["instability", "distance"] if self.parts else []), *(["mutual_information"] if information else [])}

    def _head(self, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """W W^T and W d of a fold's head; of several members that are averaged they are one head of them all."""
        self.network.load_state_dict(parameters)
        weights = [part.decoder.seg_layers[-1].weight.flatten(1) / len(self.parts) for part in self.parts]
        weight = torch.cat(weights, 1).detach().float().cpu()
        probe = directions(weight, self.configuration_manager.patch_size)
        return (weight @ weight.T).to(self.device), probe.to(self.device)

    @torch.inference_mode()
    def score(self, case: str, image: Tensor) -> Scored:
        """One pass of each fold over a preprocessed image (channels, *spatial)."""
        total: Any = None
        maps: Any = None
        disagreements: list[Disagreement] = []
        descriptors = []
        channels, folds = self.kind.channels, len(self.list_of_parameters)
        with self._bottlenecks() as kept:
            self.kept = kept
            for fold, parameters in enumerate(self.list_of_parameters):
                self.network.load_state_dict(parameters)
                self.fold = fold
                volume = self.predict_sliding_window_return_logits(image).cpu()
                logits, own = volume[:channels], volume[channels:].float()
                total = logits.clone() if total is None else total.add_(logits)
                maps = own if maps is None else maps.add_(own)
                if folds > 1:
                    self._compare(disagreements, logits)
                descriptors += self._descriptor()
        information = maps[-1:] if self.compares_passes else None
        if folds > 1:
            total /= folds
            information = torch.cat([disagreement.result()[0] for disagreement in disagreements], 1)
        unstable = maps[:1] / folds if self.parts else None
        return self._summed(case, total, unstable, information, np.concatenate(descriptors) if descriptors else None)

    @torch.inference_mode()
    def descriptor(self, image: Tensor) -> np.ndarray:
        """Mean bottleneck features of an image (channels, *spatial), as `score` has them, by the encoders alone."""
        patch = self.configuration_manager.patch_size
        data, _ = pad_nd_image(image, patch, "constant", {"value": 0}, True, None)
        slicers = self._internal_get_sliding_window_slicers(data.shape[1:])
        descriptors = []
        self.network.to(self.device).eval()
        with self._bottlenecks() as kept:
            self.kept = kept
            for parameters in self.list_of_parameters:
                self.network.load_state_dict(parameters)
                self.window_means.clear()
                for slicer in slicers:
                    window = data[slicer][None].to(self.device)
                    with autocast(self.device.type, enabled=self.device.type == "cuda"):
                        for part in self.parts:
                            part.encoder(window)
                    self._keep_window()
                descriptors += self._descriptor()
        return np.concatenate(descriptors)

    @contextmanager
    def _bottlenecks(self) -> Iterator[list[list[Any]]]:
        """Within the context, what each member's encoder gives in each forward."""
        with ExitStack() as stack:
            yield [stack.enter_context(outputs_of(part.encoder)) for part in self.parts]

    def _keep_window(self) -> None:
        """Of the forwards since the last call the bottleneck of the first."""
        means = [outputs[0][-1][0].float().flatten(1).mean(1) for outputs in self.kept]
        if means:
            self.window_means.append(torch.cat(means))
        self._forget_features()

    def _forget_features(self) -> None:
        for outputs in self.kept:
            outputs.clear()

    def _descriptor(self) -> list[np.ndarray]:
        """Of the windows of a fold: their mean, of length 1, so that all folds count alike."""
        if not self.window_means:
            return []
        mean = torch.stack(self.window_means).double().mean(0)
        return [(mean / mean.norm().clamp_min(1e-12)).cpu().numpy()]

    # ---- nnU-Net's own, one level below its sliding window

    def _internal_predict_sliding_window_return_logits(self, *args: Any, **kwargs: Any) -> Tensor:
        self.window_means.clear()  # where the device has no room for the results, nnU-Net begins a second time
        return super()._internal_predict_sliding_window_return_logits(*args, **kwargs)

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        """The mean of all mirrored passes as nnU-Net has it, and behind it the maps of this window."""
        prediction = self.network(x)
        self._keep_window()
        maps = []
        with autocast(x.device.type, enabled=False):
            if self.heads:
                maps.append(instability(prediction, self.kind, *self.heads[self.fold]))
        if axes := self.allowed_mirroring_axes if self.use_mirroring else None:
            axes = [axis + 2 for axis in axes]
            mirrorings = [m for count in range(1, len(axes) + 1) for m in itertools.combinations(axes, count)]
            disagreement = Disagreement(self.kind, x.device)
            self._compare_pass(disagreement, prediction)
            for mirrored in mirrorings:
                logits = torch.flip(self.network(torch.flip(x, mirrored)), mirrored)
                self._forget_features()
                self._compare_pass(disagreement, logits)
                prediction += logits
            prediction /= len(mirrorings) + 1
            if self.compares_passes:
                maps.append(disagreement.result())
        return torch.cat([prediction, *(each.to(prediction.dtype) for each in maps)], 1)

    def _compare_pass(self, disagreement: Disagreement, logits: Tensor) -> None:
        if self.compares_passes:
            with autocast(logits.device.type, enabled=False):
                disagreement.add(logits)

    # ---- of the whole case

    def _compare(self, disagreements: list[Disagreement], logits: Tensor) -> None:
        """Adds a fold's logits (C, *spatial) to the sums of each slab, which the first fold begins."""
        for number, slab in enumerate(slabs(logits)):
            if number == len(disagreements):
                disagreements.append(Disagreement(self.kind, torch.device("cpu")))
            disagreements[number].add(logits[None, :, slab].to(self.device))

    def _summed(
        self, case: str, logits: Tensor, unstable: Tensor | None, information: Tensor | None, descriptor: Any
    ) -> Scored:
        """Scores of logits (C, *spatial) with maps (1, *spatial)."""
        tally = Tally(self.kind, self.names)
        segmentation, uncertainty = [], []
        for slab in slabs(logits):
            part, *maps = (None if v is None else v[:, slab].to(self.device) for v in (logits, unstable, information))
            relative = tally.add(part[None].float(), *(None if each is None else each[None] for each in maps))
            uncertainty.append((relative.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
            segmentation.append(torch.as_tensor(self.labels.convert_logits_to_segmentation(part.float())).cpu())
        scores = tally.scores(case, (unstable is not None, information is not None), descriptor)
        labels = torch.cat(segmentation).numpy().astype(np.int16)
        return Scored(scores, logits, labels, torch.cat(uncertainty).numpy())


def slabs(logits: Tensor) -> Iterable[slice]:
    """Along the first axis of (C, *spatial), each of about `SLAB` numbers."""
    size = logits.shape[1]
    step = max(1, SLAB * size // logits.numel())
    return (slice(start, start + step) for start in range(0, size, step))


def unets_of(network: nn.Module) -> list[Any]:
    """The U-Net of nnU-Net's plans that a network is, or the two that it averages; none where it is another network."""
    parts: list[Any] = [network.first, network.second] if isinstance(network, Average) else [network]
    unets = [hasattr(part, "encoder") and hasattr(getattr(part, "decoder", None), "seg_layers") for part in parts]
    return parts if all(unets) else []
