"""Aligned views of an unlabeled patch: one draw of the geometry, intensity changes on top.

Pseudo-labels of a weak view hold voxel by voxel for the strong view, so nothing ever needs to be warped back.

In the second stage of a cascade the first stage's segmentation takes the same geometry and is joined to the image as
nnU-Net does, one-hot, after all changes of intensity. nnU-Net's random faults in it (dilated, eroded, components
removed) belong to the strong view; the weak view has it as predicted.

Two of three patches are neither rotated nor scaled. nnU-Net cuts them from the middle of one up to four times as large;
here that is drawn before anything is read, and the middle is all that is read.
"""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from torch import Tensor

_GEOMETRY = (SpatialTransform, MirrorTransform, Convert3DTo2DTransform, Convert2DTo3DTransform)
_GEOMETRY += (Rot90Transform, TransposeAxesTransform)  # of nnU-Net's DA5


class Views:
    """Splits nnU-Net's training transforms into geometry and intensity and applies them to an image without labels.

    Args:
        transforms: what the trainer's `get_training_transforms` returned.
        views: those wanted, of "weak" (geometry), "strong" (the same geometry, then intensity) and "target" (of a
            pseudo-label, the same geometry, then all that nnU-Net does to labels).
        unknown: the label of voxels that pseudo-labels leave out, if there is one.

    Raises:
        NotImplementedError: a transform is neither known geometry nor a change of intensities.
    """

    def __init__(self, transforms: ComposeTransforms, views: tuple[str, ...], unknown: int | None = None):
        self.views = views
        self.unknown = unknown
        self.strong_elsewhere = False
        self.geometry: list[BasicTransform] = []
        self.intensity: list[BasicTransform] = []
        self.mask: MaskImageTransform | None = None
        self.join: MoveSegAsOneHotToDataTransform | None = None
        self.faults: list[BasicTransform] = []  # in the channels joined
        self.labels: list[BasicTransform] = []
        for transform in transforms.transforms:
            inner = _inner(transform)
            if isinstance(inner, _GEOMETRY):
                self.geometry.append(transform)
            elif _changes_intensity(inner):
                (self.intensity if self.join is None else self.faults).append(transform)
            elif isinstance(inner, MaskImageTransform):
                self.mask = inner
            elif isinstance(inner, MoveSegAsOneHotToDataTransform):
                self.join = inner
            elif isinstance(inner, ConvertSegmentationToRegionsTransform):
                self.labels.append(transform if unknown is None else _with_region(inner, unknown))
            elif isinstance(inner, SegOnlyTransform):
                self.labels.append(transform)
            else:
                raise NotImplementedError(
                    f"the training transform {type(inner).__name__} cannot be sorted into geometry and intensity, "
                    "so weak and strong views of unlabeled patches cannot be aligned."
                )
        self._spatial = self._first_of_geometry()

    def hand_over_intensity(self) -> list[BasicTransform]:
        """The changes of intensity, which from now on are left to whoever takes them.

        Then "strong" is what they are to be made on, and not there where that is the weak view.
        """
        self.strong_elsewhere = True
        taken, self.intensity = self.intensity, []
        return taken

    def draw(self, shape: tuple[int, ...]) -> dict[str, Any] | None:
        """What `SpatialTransform` is to do to a patch (*spatial) before it is cut to the final size.

        None where only the patch itself tells.
        """
        if self._spatial is None:
            return None
        flat = isinstance(self.geometry[0], Convert3DTo2DTransform)
        return self._spatial.get_parameters(image=torch.empty(()).expand(1, *shape[flat:]))

    def __call__(
        self,
        image: Tensor,
        prediction: Tensor | None = None,
        label: Tensor | None = None,
        drawn: dict[str, Any] | None = None,
    ) -> dict[str, Tensor | list[Tensor]]:
        """The views wanted of a patch (channels, *spatial), in the final patch size.

        Args:
            image: the patch.
            prediction: in a cascade, the first stage's segmentation (1, *spatial).
            label: the pseudo-label (1, *spatial), -1 where the patch reaches beyond the case; for "target".
            drawn: what `draw` gave for it. If that is `only_cut`, its middle in the final size will do.
        """
        sample = {"image": image} if label is None else {"image": image, "segmentation": label}
        if self.mask is not None or self.join is not None:
            # preprocessing leaves exact zeros outside the object; MaskImageTransform looks for labels of -1 there
            outside = -(image == 0).all(0, keepdim=True).to(torch.int16)
            outside = outside if label is None else torch.where(outside < 0, outside, label)
            if label is not None and self.unknown is not None:  # as nnU-Net's ignore label, which holds outside, too
                outside = torch.where(label == self.unknown, label, outside)
            # nnU-Net's order: its transform reads the first stage's segmentation from the second channel
            sample["segmentation"] = outside if self.join is None else torch.cat((outside, prediction))
        sample = self._moved(sample, self.draw(tuple(image.shape[1:])) if drawn is None else drawn)
        made = {}
        if "strong" in self.views and (self.faults or not self.strong_elsewhere or "weak" not in self.views):
            strong = _apply(self.intensity, dict(sample, image=sample["image"].clone()))
            made["strong"] = _apply(self.faults, self._finished(strong))["image"]
        if "weak" in self.views:
            made["weak"] = self._finished(sample)["image"]
        if "target" in self.views:
            made["target"] = _apply(self.labels, {"segmentation": sample["segmentation"][:1]})["segmentation"]
        return made

    def _first_of_geometry(self) -> SpatialTransform | None:
        """nnU-Net's rotation and scaling, if nothing else moves a patch before and the middle of it is kept."""
        for transform in self.geometry:
            if isinstance(transform, SpatialTransform):
                return None if transform.random_crop else transform
            if not isinstance(transform, Convert3DTo2DTransform):
                return None
        return None

    def _moved(self, sample: dict, drawn: dict[str, Any] | None) -> dict:
        for transform in self.geometry:
            if transform is not self._spatial:
                sample = transform(**sample)
                continue
            if only_cut(drawn):  # from the middle of what was read
                drawn = drawn | {"center_location_in_pixels": [size / 2 for size in sample["image"].shape[1:]]}
            sample = transform.apply(sample, **drawn)
        return sample

    def _finished(self, sample: dict) -> dict:
        return _apply([transform for transform in (self.mask, self.join) if transform is not None], sample)


def only_cut(drawn: dict[str, Any] | None) -> bool:
    """Whether a patch is neither rotated nor scaled, so that its middle in the final size is all that is needed."""
    return drawn is not None and drawn["grid"] is None


def _inner(transform: BasicTransform) -> BasicTransform:
    return transform.transform if isinstance(transform, RandomTransform) else transform


def _changes_intensity(transform: BasicTransform) -> bool:
    if isinstance(transform, OneOfTransform):
        return all(_changes_intensity(_inner(each)) for each in transform.list_of_transforms)
    return isinstance(transform, ImageOnlyTransform)


def _with_region(convert: ConvertSegmentationToRegionsTransform, label: int) -> ConvertSegmentationToRegionsTransform:
    """nnU-Net's conversion with this label as the last region, where that of its ignore label stands."""
    regions = [tuple(map(int, region)) for region in convert.regions]
    return ConvertSegmentationToRegionsTransform([*(r for r in regions if r != (label,)), (label,)])


def _apply(transforms: list[BasicTransform], sample: dict) -> dict:
    for transform in transforms:
        sample = transform(**sample)
    return sample
