"""The network and batch of the timings' tests, and what counts the patches that networks see."""

from collections import Counter

from torch import nn

from nnunet_ssl.networks.net import Output

PATCH, FEATURES, BATCH = [16, 16, 16], [4, 6, 8, 8], 2  # four stages, as some methods need two supervised scales


def watch(network: nn.Module, name: str, found: Counter) -> None:
    """Has each forward add its patches to `found`, by name and whether the output has a gradient."""

    def count(module, arguments, result):
        first = arguments[0][0] if isinstance(arguments[0], list) else arguments[0]  # a decoder takes a list
        scales = result.pyramid if isinstance(result, Output) else result if isinstance(result, list) else [result]
        found[name, scales[0].requires_grad] += len(first)

    network.register_forward_hook(count)
