"""What the encoder returned in the student's own forward, and further decoders that read it."""

from __future__ import annotations

from torch import Tensor, nn

from nnunet_ssl.networks.hooks import let_compile_see_hooks

REFUSAL = "has no encoder and decoder.seg_layers to add decoders to; take a U-Net of nnU-Net's plans."


class EncoderFeatures:
    """From now on keeps the skips of a network's latest forward in training mode: one encoder pass serves all decoders.

    Args:
        network: its `encoder` returns a list of features (B, channels, *spatial), full resolution first.

    Raises:
        NotImplementedError: the network has no encoder.
    """

    def __init__(self, network: nn.Module):
        self.kept: list[Tensor] | None = None
        if not hasattr(network, "encoder"):
            raise NotImplementedError(f"{type(network).__name__} {REFUSAL}")

        def after(encoder: nn.Module, args: tuple, skips: list[Tensor]) -> None:
            if encoder.training:
                self.kept = list(skips)

        network.encoder.register_forward_hook(after)
        let_compile_see_hooks()

    def take(self) -> list[Tensor]:
        """The skips with their gradient, once: they are not held longer than the step needs them."""
        skips, self.kept = self.kept, None
        return skips


def auxiliary_decoder(network: nn.Module) -> nn.Module:
    """The decoder of a new network by itself; it maps a list of skips to logits (B, C, *spatial) at full resolution.

    nnU-Net's decoder refers to its encoder without using it in a forward, and has a head per scale: both are left out,
    so that all parameters get a gradient.

    Raises:
        NotImplementedError: the network is not an encoder and a decoder with segmentation layers.
    """
    if not (hasattr(network, "encoder") and hasattr(getattr(network, "decoder", None), "seg_layers")):
        raise NotImplementedError(f"{type(network).__name__} {REFUSAL}")
    decoder = network.decoder
    del decoder.encoder
    decoder.deep_supervision = False
    decoder.seg_layers = decoder.seg_layers[-1:]
    return decoder
