"""Masked distances against a slow restatement, and their empty case."""

import torch

from nnunet_ssl.losses.consistency import masked_mse


def slow(student, teacher, mask):
    total, count = 0.0, 0
    batch, channels, size = student.shape
    for b in range(batch):
        for c in range(channels):
            for i in range(size):
                if mask[b, min(c, mask.shape[1] - 1), i]:
                    total += (student[b, c, i] - teacher[b, c, i]).item() ** 2
                    count += 1
    return total / count


def test_equals_the_slow_restatement_for_classes_and_regions():
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 3, 11), torch.rand(2, 3, 11)
    for channels in (1, 3):
        mask = torch.rand(2, channels, 11) > 0.5
        expected = torch.tensor(slow(student, teacher, mask))
        torch.testing.assert_close(masked_mse(student, teacher, mask), expected)


def test_empty_mask_gives_zero_and_zero_gradient():
    student = torch.rand(1, 2, 5, requires_grad=True)
    loss = masked_mse(student, torch.rand(1, 2, 5), torch.zeros(1, 1, 5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
