"""CCT against its closed forms and the gradients that its structure promises."""

import pytest
import torch
from workbench import kind, task, tiny_network
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.cct import CCT, CCTPublished
from nnunet_ssl.networks.net import Net, Output

END = Now(step=99, epoch=9, fraction=1.0)


def output(*logits, regions=False) -> Output:
    return output_of(torch.tensor(logits).view(1, -1, 1, 1).requires_grad_(), regions)


def ready(dimensions=2, regions=False, step=CCT, **arguments):
    """A method on a tiny network with 3 channels; the supervised loss is the mean of all squared logits."""
    net = Net(tiny_network(dimensions, 3), kind(3, regions))
    method = step(**arguments)
    method.task = task(dimensions, 3, regions)
    method.supervised = lambda output, target: torch.stack([z.square().mean() for z in output.pyramid]).mean()
    seeds = iter(range(5, 100))
    method.setup(net, lambda: tiny_network(dimensions, 3, seed=next(seeds)))
    return net, method


def batches(dimensions=2):
    torch.manual_seed(1)
    size = [16] * dimensions
    return Labeled(torch.randn(2, 1, *size).requires_grad_(), torch.zeros(2)), Unlabeled(torch.randn(3, 1, *size))


def test_distance_of_each_auxiliary_decoder_and_their_mean():
    method, main = CCT(), output(1.0, 0.0, 0.0)
    torch.testing.assert_close(main.probs.flatten(), torch.tensor([0.576117, 0.211942, 0.211942]), atol=1e-6, rtol=0)
    others = [output(1.0, 0.0, 0.0), output(0.0, 1.0, 0.0), output(0.0, 0.0, 0.0)]
    loss = method.consistency(main, others)
    assert loss.item() == pytest.approx(0.039296, abs=1e-6)
    assert method.report["distance[noise]"].item() == 0
    assert method.report["distance[dropout]"].item() == pytest.approx(0.088416, abs=1e-6)
    assert method.report["distance[drop]"].item() == pytest.approx(0.029472, abs=1e-6)
    loss.backward()
    assert main.logits.grad is None
    assert others[1].logits.grad.abs().sum() > 0


def test_as_published_the_main_decoder_is_pulled_too():
    main, other = output(1.0, 0.0, 0.0), output(0.0, 1.0, 0.0)
    CCTPublished().consistency(main, [other] * 3).backward()
    assert main.logits.grad.abs().sum() > 0


def test_regions_compare_sigmoids():
    loss = CCT().consistency(output(2.0, 0.0, regions=True), [output(0.0, 0.0, regions=True)] * 3)
    assert loss.item() == pytest.approx((0.880797 - 0.5) ** 2 / 2, abs=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_consistency_trains_encoder_and_auxiliary_decoders_from_unlabeled_patches_alone(dimensions):
    net, method = ready(dimensions)
    labeled, unlabeled = batches(dimensions)
    method.losses(net, labeled, unlabeled, END)["consistency"].backward()
    main = [p for name, p in net.module.named_parameters() if name.startswith("decoder.")]  # the encoder's come first
    assert main and not any(p.grad is not None and p.grad.any() for p in main)
    assert not labeled.image.grad.any()
    assert all(p.grad.any() for p in net.module.encoder.parameters() if p.ndim > 1)
    assert all(p.grad is not None for p in method.parameters())


def test_supervision_reaches_the_main_decoder_only_but_as_published():
    for step in (CCT, CCTPublished):
        net, method = ready(step=step)
        method.losses(net, *batches(), END)["supervised"].backward()
        assert all((p.grad is not None) is (step is CCTPublished) for p in method.parameters())


def test_published_supervision_is_the_mean_over_four_decoders_on_labeled_patches():
    net, method = ready(step=CCTPublished, perturb=False)
    labeled, unlabeled = batches()
    skips = net.module.encoder(labeled.image)
    losses = [method.supervised(net(labeled.image), labeled.target)]
    losses += [decoder(skips).square().mean() for decoder in method.decoders]
    supervised = method.losses(net, labeled, unlabeled, END)["supervised"]
    torch.testing.assert_close(supervised, torch.stack(losses).mean())


def test_copies_of_the_main_decoder_agree_without_perturbation_and_disagree_with_it():
    for perturb in (False, True):
        net, method = ready(perturb=perturb)
        main = net.module.decoder.state_dict()
        for decoder in method.decoders:
            renamed = {name: main[name.replace("seg_layers.0", "seg_layers.1")] for name in decoder.state_dict()}
            decoder.load_state_dict(renamed)
        consistency = method.losses(net, *batches(), END)["consistency"].item()
        if perturb:
            assert consistency > 1e-6
            assert len({method.report[f"distance[{name}]"].item() for name in ("noise", "dropout", "drop")}) == 3
        else:
            assert consistency == pytest.approx(0, abs=1e-12)


def test_decoders_differ_and_the_deployed_network_is_plain():
    net, method = ready()
    first, second, third = (next(decoder.parameters()) for decoder in method.decoders)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert not any("encoder" in name for name in method.state_dict())
    tiny_network(2, 3, seed=3).load_state_dict(method.deployed(net).state_dict())


def test_labeled_outputs_do_not_change():
    net, method = ready()
    labeled, unlabeled = batches()
    expected = method.supervised(Net(tiny_network(2, 3), kind(3))(labeled.image), None)
    torch.testing.assert_close(method.losses(net, labeled, unlabeled, END)["supervised"], expected)


def test_networks_without_encoder_and_decoder_are_refused():
    net, method = Net(torch.nn.Conv2d(1, 2, 3), kind(2)), CCT()
    with pytest.raises(NotImplementedError, match="Conv2d has no encoder"):
        method.setup(net, lambda: torch.nn.Conv2d(1, 2, 3))
