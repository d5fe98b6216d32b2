"""Random starts at corners and unclipped noise: their distribution, and what they depend on."""

import pytest
import torch

from atlas_fast import ops
from atlas_fast.attacks.starts import random_noise, random_signs


def test_signs_have_equal_chances_and_stay_in_range():
    x = torch.full((20, 3, 16, 16), 0.5)
    moved = random_signs(x, 0.1, ops.make_rng(0)) - x
    assert torch.allclose(moved.abs(), torch.tensor(0.1))
    assert abs((moved > 0).float().mean().item() - 0.5) < 4 * 0.5 / moved.numel() ** 0.5
    assert random_signs(torch.ones(2, 3), 0.1, ops.make_rng(0)).max() == 1


def test_noise_is_uniform_and_not_clipped():
    x = torch.zeros(20, 3, 16, 16, dtype=torch.float64)
    noise = random_noise(x, torch.tensor(0.2, dtype=torch.float64), ops.make_rng(0))
    assert -0.2 <= noise.min() < -0.199 and 0.199 < noise.max() < 0.2
    assert abs(noise.mean().item()) < 4 * 0.2 / 3**0.5 / noise.numel() ** 0.5
    start = ops.random_start(x + 0.5, 0.2, ops.make_rng(0)) - 0.5
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), start.flatten()]))[0, 1].item()) < 0.04


@pytest.mark.parametrize("draw", [random_signs, random_noise])
def test_numbers_belong_to_pixels_of_samples(draw):
    x = torch.rand(6, 3, 5, 5)
    whole = draw(x, 0.1, ops.make_rng(3, 7))
    assert torch.equal(whole[2:], draw(x[2:], 0.1, ops.make_rng(3, 7), sample_offset=2))
    last = draw(x.contiguous(memory_format=torch.channels_last), 0.1, ops.make_rng(3, 7))
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, whole)
    assert not torch.equal(whole, draw(x, 0.1, ops.make_rng(3, 8)))
