"""Soft pseudo-labels that are surer than the prediction they come from."""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.networks.net import Output


def sharpened(output: Output, temperature: float) -> Tensor:
    """p_c^(1/T) / sum_k p_k^(1/T) in float32, (B, C, *spatial); p^(1/T) / (p^(1/T) + (1 - p)^(1/T)) for regions.

    As it is made of logits, nothing underflows.
    """
    return output.kind.probs(output.logits.float() / temperature)


def sharpened_per_channel(output: Output, temperature: float) -> Tensor:
    """p_c^(1/T) / (p_c^(1/T) + (1 - p_c)^(1/T)) in float32, (B, C, *spatial), also for classes.

    Each class stands against all others, so the channels of more than two classes need not add to 1.
    """
    return (output.kind.log_odds(output.logits, output.probs) / temperature).sigmoid()
