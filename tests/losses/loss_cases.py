"""Logits and labels of all shapes, channel counts and precisions, and the property tests that are run over them."""

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from workbench import kind, output, target

EXTREMES = torch.tensor([0.0, 1.0, -1.0, 1e4, -1e4, 6e4, -6e4])  # float16 ends at 65504
COVERED = set()


@dataclass
class Case:
    """Two sets of logits (B, C, *spatial) of one shape and precision, and labels for them."""

    first: torch.Tensor
    second: torch.Tensor
    labels: torch.Tensor  # class numbers (B, *spatial), or regions 0/1 (B, C, *spatial)
    valid: torch.Tensor  # (B, *spatial)
    weights: torch.Tensor  # (C,)
    order: torch.Tensor  # of channels
    regions: bool

    @property
    def kind(self):
        return kind(self.first.shape[1], self.regions)

    def output(self, *pyramid):
        return output(list(pyramid), self.regions)

    def target(self, labels):
        """Labels, of which the valid voxels count, as nnU-Net's target with an ignore label."""
        if self.regions:
            scale = torch.cat((labels, 1 - self.valid[:, None].float()), 1)
        else:
            scale = torch.where(self.valid, labels, self.first.shape[1])[:, None].float()
        return target(scale, self.first.shape[1], self.regions, self.first.shape[1] + self.regions)

    @property
    def onehot(self):
        if self.regions:
            return self.labels
        return F.one_hot(self.labels, self.first.shape[1]).movedim(-1, 1).float()

    @property
    def reordered_labels(self):
        """The labels after logits were indexed by `order`."""
        return self.labels[:, self.order] if self.regions else self.order.argsort()[self.labels]


def logits(sort, shape, generator):
    if sort == "normal":
        return 5 * torch.randn(shape, generator=generator)
    if sort == "extreme":
        return EXTREMES[torch.randint(len(EXTREMES), shape, generator=generator)]
    if sort == "equal":
        return torch.full(shape, EXTREMES[torch.randint(len(EXTREMES), (), generator=generator)].item())
    winner = torch.randint(shape[1], (shape[0], 1, *shape[2:]), generator=generator)
    return torch.full(shape, -6e4).scatter(1, winner, 6e4)


@st.composite
def cases(draw):
    dimensions, regions = draw(st.sampled_from([2, 3])), draw(st.booleans())
    channels = draw(st.sampled_from([1, 2, 3, 6, 40] if regions else [2, 3, 4, 6, 40]))
    spatial = draw(st.lists(st.integers(1, 9 if dimensions == 2 else 5), min_size=dimensions, max_size=dimensions))
    shape = (draw(st.integers(1, 3)), channels, *spatial)
    precision = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    kinds = st.sampled_from(["normal", "extreme", "equal", "one-hot"])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    pair = [logits(draw(kinds), shape, generator).to(precision).requires_grad_() for _ in range(2)]
    plain = (shape[0], *spatial)
    labels = torch.randint(channels, plain, generator=generator)
    if regions:
        labels = torch.randint(2, shape, generator=generator).float()
    valid = torch.rand(plain, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    weights = torch.rand(channels, generator=generator) * draw(st.sampled_from([0.0, 1.0, 40.0]))
    return Case(*pair, labels, valid, weights, torch.randperm(channels, generator=generator), regions)


def covers(*functions):
    """Marks a property test of these functions, over fixed examples."""
    COVERED.update(functions)

    def decorate(test):
        return settings(max_examples=60, deadline=None, derandomize=True, database=None)(given(case=cases())(test))

    return decorate


def check_finite(loss, *leaves):
    """The value, and the gradient in the precision of the logits; returns the value."""
    assert loss.dtype == torch.float32 and torch.isfinite(loss).all()
    for gradient in torch.autograd.grad(loss.mean(), leaves, allow_unused=True, retain_graph=True):
        assert gradient is None or torch.isfinite(gradient).all()
    return loss.detach()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)
