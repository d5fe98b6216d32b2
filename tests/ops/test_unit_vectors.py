"""Unit vectors: the formula to 1e-6, and that they are uniform on the sphere."""

import pytest
import torch
from backends import error

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops.unit_vectors import normal_reference, unit_vectors_reference


@pytest.mark.parametrize("samples, classes, draws", [
    (0, 10, 1), (1, 1, 1), (1, 2, 1), (3, 3, 2), (5, 10, 3), (2, 101, 1), (2, 1000, 1), (1, 4097, 1)])
def test_formula(backend, samples, classes, draws):
    rng = backend.rng()
    vectors = ops.unit_vectors(rng, samples, classes, draws, sample_offset=9)
    assert vectors.shape == (draws, samples, classes) and vectors.dtype == torch.float32
    assert error(vectors, unit_vectors_reference(rng, samples, classes, draws, ops.PROJECTION, 9)) < 1e-6
    assert error(vectors.double().norm(dim=2), torch.ones(draws, samples, device=backend.device)) < 1e-6


def test_batch_split_draw_and_purpose(backend):
    rng = backend.rng()
    vectors = ops.unit_vectors(rng, 6, 10, 3)
    assert torch.equal(vectors[:, 2:5], ops.unit_vectors(rng, 3, 10, 3, sample_offset=2))
    assert torch.equal(vectors[:2], ops.unit_vectors(rng, 6, 10, 2))
    assert torch.equal(vectors[1:2], ops.unit_vectors(rng, 6, 10, 1, purpose=ops.stream(ops.PROJECTION, 1)))
    assert not torch.allclose(vectors[0], vectors[1])
    assert not torch.allclose(vectors, ops.unit_vectors(backend.rng(step=4), 6, 10, 3))


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_isotropy(backend, classes):
    """E v = 0, E v v^T = I / C, E v_i^4 = 3 / (C (C + 2)): within four standard errors."""
    n = backend.fewer(8192)
    v = ops.unit_vectors(backend.rng(17, 0), n, classes)[0].double()
    c = classes
    assert v.mean(0).abs().max() < 4 * (1 / (c * n)) ** 0.5
    moment = v.T @ v / n
    eye = torch.eye(c, dtype=torch.float64, device=v.device)
    diagonal_variance, cross_variance = 2 * (c - 1) / (c**2 * (c + 2)), 1 / (c * (c + 2))
    assert (moment - eye / c).abs().max() < 4 * (max(diagonal_variance, cross_variance) / n) ** 0.5
    fourth = v.pow(4)
    assert (fourth.mean(0) - 3 / (c * (c + 2))).abs().max() < 4 * (fourth.var(0).max() / n) ** 0.5


def test_one_class_has_both_signs(backend):
    v = ops.unit_vectors(backend.rng(1, 0), 512, 1).flatten()
    assert torch.equal(v.abs(), torch.ones_like(v)) and 180 < (v > 0).sum() < 332


def test_one_class_at_an_exact_quarter_turn(backend):
    """This sample's angle is pi / 2 or 3 pi / 2 to the last bit: the cosine that is divided by its length is 0."""
    assert ops.unit_vectors(ops.make_rng(5, 6, backend.device), 1, 1, sample_offset=4320279).abs() == 1


def test_reference_normals_are_standard_normal():
    n = normal_reference(ops.make_rng(3), 64, 2001, 0, 0)
    assert n.shape == (64, 2001) and n.isfinite().all()
    z, size = n.flatten().sort().values, n.numel()
    distance = (torch.special.ndtr(z) - torch.arange(size) / size).abs().max()
    assert distance * size**0.5 < 1.95  # Kolmogorov-Smirnov, p = 0.001


def test_device_and_default_rng():
    assert ops.unit_vectors(None, 2, 3).device.type == "cpu"
    torch.manual_seed(1)
    first = ops.unit_vectors(None, 2, 3)
    torch.manual_seed(1)
    assert torch.equal(first, ops.unit_vectors(None, 2, 3))


@pytest.mark.parametrize("samples, classes, draws", [(-1, 10, 1), (1, 0, 1), (1, 10, 0)])
def test_wrong_use(samples, classes, draws):
    with pytest.raises(UserError, match="samples >= 0, classes >= 1 and draws >= 1"):
        ops.unit_vectors(ops.make_rng(0), samples, classes, draws)
