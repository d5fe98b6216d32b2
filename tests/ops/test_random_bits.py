"""Philox: known answers of Random123's kat_vectors, then counters, streams and statistics."""

import pytest
import torch

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops.rng import philox_reference, random_bits_reference, uniform_reference

ONES = 0xFFFFFFFF
KNOWN = [  # counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


def philox(counter, key):
    """Philox 4x32-10 in Python's integers, from the paper's description."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & ONES, (a >> 32) ^ c3 ^ k1, a & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return c0, c1, c2, c3


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers_of_the_reference(counter, key, words):
    assert philox(counter, key) == words
    tensors = philox_reference(tuple(map(torch.tensor, key)), tuple(map(torch.tensor, counter)))
    assert tuple(int(w) for w in tensors) == words


def test_known_answer(backend):
    assert ops.random_bits(ops.make_rng(0, 0, backend.device), 1, 4).tolist() == [list(KNOWN[0][2])]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_each_counter_word_and_both_key_words(backend, counter, key, words):
    """The known keys and counters, but for the first word: element 4 * 0xFFFFFFFF is out of reach."""
    rng = ops.make_rng(key[0] | key[1] << 32, counter[2], backend.device)
    drawn = ops.random_bits(rng, 2, 11, purpose=counter[3], sample_offset=counter[1])
    for i in range(2):
        sample = (counter[1] + i) & ONES
        expected = [w for group in range(3) for w in philox((group, sample, *counter[2:]), key)]
        assert drawn[i].tolist() == expected[:11]


@pytest.mark.parametrize("samples, n", [(0, 5), (3, 0), (1, 1), (2, 3), (5, 4), (3, 1031), (1100, 1)])
def test_words_are_those_of_the_reference(backend, samples, n):
    rng = backend.rng()
    assert torch.equal(ops.random_bits(rng, samples, n, 7, 5), random_bits_reference(rng, samples, n, 7, 5))


def test_words_depend_on_nothing_but_their_counter(backend):
    rng = backend.rng()
    drawn = ops.random_bits(rng, 6, 40)
    assert torch.equal(drawn[:, :13], ops.random_bits(rng, 6, 13))
    assert torch.equal(drawn[2:5], ops.random_bits(rng, 3, 40, sample_offset=2))


def test_streams_are_different(backend):
    rng = backend.rng(5, 0)
    base = ops.random_bits(rng, 4, 64)
    others = [ops.random_bits(rng, 4, 64, ops.PROJECTION), ops.random_bits(rng, 4, 64, ops.stream(0, 1)),
              ops.random_bits(backend.rng(5, 1), 4, 64), ops.random_bits(backend.rng(6, 0), 4, 64),
              ops.random_bits(backend.rng(5 + 2**32, 0), 4, 64), ops.random_bits(rng, 4, 64, sample_offset=4)]
    for other in others:
        assert (base == other).sum() <= 1  # 256 words: one chance in 2^24 of a single match


def test_uniforms_pass_chi_square_and_kolmogorov_smirnov(backend):
    bits = ops.random_bits(backend.rng(11, 0), backend.fewer(16), 4096).flatten()
    n, bins = bits.numel(), 256
    for shift in (24, 8):  # the upper and the lower byte of the 24 bits in use
        counts = torch.bincount((bits >> shift) & 0xFF, minlength=bins).double()
        chi_square = ((counts - n / bins) ** 2).sum() * bins / n
        assert abs(chi_square - (bins - 1)) < 4 * (2 * (bins - 1)) ** 0.5
    u = ((bits >> 8).double() * 2.0**-24).sort().values
    distance = (u - torch.arange(n, device=u.device) / n).abs().max()
    assert distance * n**0.5 < 1.95  # p = 0.001


def test_neighbours_are_uncorrelated(backend):
    u = (ops.random_bits(backend.rng(13, 0), backend.fewer(64), 1024) >> 8).double() * 2.0**-24 - 0.5
    for a, b in ((u[:, 1:], u[:, :-1]), (u[:, 4:], u[:, :-4]), (u[1:], u[:-1])):
        assert abs((a * b).mean() * 12) < 4 / a.numel() ** 0.5


def test_uniform_is_in_the_half_open_unit_interval():
    u = uniform_reference(ops.make_rng(1), 1, 2**16, 0, 0)
    assert u.dtype == torch.float32 and 0 <= u.min() and u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())


def test_drawn_seeds_follow_torch_manual_seed():
    x = torch.full((1, 3, 4, 4), 0.5)
    torch.manual_seed(3)
    first, second = ops.random_start(x, 0.1), ops.random_start(x, 0.1)
    torch.manual_seed(3)
    assert torch.equal(ops.random_start(x, 0.1), first) and not torch.equal(first, second)


def test_wrong_use():
    for wrong in (torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.zeros((), dtype=torch.int64)):
        with pytest.raises(UserError, match="rng must be an int64 tensor"):
            ops.random_bits(wrong, 1, 1)
    for samples, n in ((-1, 1), (1, -1)):
        with pytest.raises(UserError, match=">= 0"):
            ops.random_bits(ops.make_rng(0), samples, n)
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(UserError, match="seed"):
            ops.make_rng(seed)
    for purpose, draw in ((256, 0), (-1, 0), (0, 2**23), (0, -1)):
        with pytest.raises(UserError, match="purpose"):
            ops.stream(purpose, draw)
