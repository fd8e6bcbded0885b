"""Aggregating and decoupling (A&D, GenericSSL): a diffusion decoder among three decoders of one encoder.

H. Wang and X. Li, "Towards Generic Semi-Supervised Framework for Volumetric Medical Image Segmentation", NeurIPS 2023.

    e, theta      encoder and decoder of the plan's network, which predict
    psi, xi       further decoders; with xi, e has another first layer, for [x, x_t], and both are told the time t
    x_t           sqrt(a_t) (2 onehot(y) - 1) + sqrt(1 - a_t) N(0, 1),  t of 0..T-1 at random for each labeled patch
    z = xi(e([x_l, x_t], t))
    W             C v, v the difficulty (DiffDW) of argmax z                     see `class_weights.py`
    u             what xi makes of noise on x_u in K steps (DDIM), within [-1, 1]              without gradient
    y_u           argmax of G softmax(u + g) + softmax psi(e(x_u)),  g Gumbel noise, G a Gaussian of 3 voxels

    L_W = CE_W(psi(e(x_l)), y) - mean_{k>=1} W_k dice_k
    L = L_W + L_sup(z, y) + w(r) L_sup(theta(e(x_u)), y_u),  w(r) = lambda exp(-5 (1 - r)^2)
    theta <- alpha theta + (1 - alpha) (xi + psi) / 2                            after each step

Labels train xi and psi, pseudo-labels theta, all of them e, each over all scales. All patches have nnU-Net's whole
augmentation. In x_t voxels that are not annotated are background. For regions onehot(y) is each region's map, softmax
is sigmoid, g logistic, and y_u has the regions where the mean of both is above 0.5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, autocast

from nnunet_ssl.losses.weighted import weighted_supervised
from nnunet_ssl.memory.class_weights import AbsoluteDifficulty
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.average import approach
from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.denoiser import Denoiser, DenoisingPath, PlainPath
from nnunet_ssl.networks.diffusion import Diffusion, smoothed
from nnunet_ssl.networks.net import Net, Output, run, set_deep_supervision
from nnunet_ssl.networks.taps import require_unet


class GenericSSL(RampedMethod):
    """A diffusion decoder and one with class weights label the patches that the decoder which predicts learns from.

    Args:
        ema_decay: alpha, of theta per step.
        times: T, of the diffusion.
        sampling_steps: K, at most T.
        noise: factor of the Gaussian noise of the diffusion and of the Gumbel noise of pseudo-labels.
        absent: "skip" leaves the difficulty of a class that a batch does not hold as it is, "half" gives it Dice 0.5.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("strong",)
    presets = {"published": {"absent": "half"}}

    def __init__(
        self,
        ema_decay: float = 0.99,
        times: int = 1000,
        sampling_steps: int = 10,
        noise: float = 1.0,
        absent: str = "skip",
        weight: float = 10.0,
        **ramped: Any,
    ):
        super().__init__(weight=weight, **ramped)
        check_range("ema_decay", ema_decay, 0, 1)
        check_range("noise", noise, 0)
        if absent not in ("skip", "half"):
            raise ValueError(f"absent = {absent!r} must be skip or half")
        self.ema_decay, self.noise, self.absent = ema_decay, noise, absent
        self.diffusion = Diffusion(times, sampling_steps, noise)

    def setup(self, net: Net, new_net: Architecture) -> None:
        net.tap("skips")
        encoder = require_unet(net.module).encoder
        self.xi, self.psi = Denoiser(new_net), further_decoder(new_net(), scales=True)
        set_deep_supervision(self.psi, new_net.deep_supervision)  # its heads keep theta's numbers either way
        self.difficulty = AbsoluteDifficulty(self.task.kind, skip_absent=self.absent == "skip")
        self.paths = [net.compiled(DenoisingPath(encoder, self.xi)), net.compiled(PlainPath(encoder, self.psi))]

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        kind, target, (xi, psi) = net.kind, labeled.target, self.paths
        u = self.diffusion.sample(xi, unlabeled.strong, kind.channels)  # before there are graphs in memory
        theta = net(unlabeled.strong)
        y_u = target.resized(target.form(self.pseudo_labels(u, theta)))
        z = Output(xi(labeled.image, *self.diffusion(2 * kind.masks(target.labels).float() - 1)), kind)
        weights = self.difficulty.update(z.hard, theta.hard, target)
        self.report |= {f"class_weight[{name}]": w for name, w in zip(self.task.channels, weights, strict=True)}
        return {
            "supervised": weighted_supervised(run(psi, labeled.image, kind), target, weights, self.task),
            "supervised_denoising": self.supervised(z, target),
            "pseudo": self.ramped_weight(now) * self.supervised(theta, y_u),
        }

    @torch.no_grad()
    def pseudo_labels(self, u: Tensor, theta: Output) -> Tensor:
        """y_u; to G all outcomes are alike beyond the patch."""
        kind, alike = theta.kind, 1 / theta.kind.outcomes
        psi = run(self.paths[1], theta.features["skips"], kind).probs
        with autocast(u.device.type, enabled=False):
            xi = smoothed(kind.probs(u + self.noise * kind.noise(u)) - alike)
        return kind.hard(xi + psi - alike)

    def after_step(self, net: Net, now: Now) -> None:
        approach(require_unet(net.module).decoder, (self.xi.decoder, self.psi), 1 - self.ema_decay)
