"""The nuclear norm by matrix products against the singular value decomposition."""

import pytest
import torch

from atlas_fast.ops import nuclear_norm, polar_factor


def matrix(shape, smallest, dtype=torch.float64):
    """Singular values from 1 down to `smallest`, times 3."""
    generator = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64, generator=generator), full_matrices=False)
    s = torch.logspace(0, torch.tensor(smallest).log10().item(), min(shape), dtype=torch.float64)
    return ((u * (3 * s)) @ vh).to(dtype), u @ vh, 3 * s.sum()


@pytest.mark.parametrize("smallest", [0.5, 1e-3, 1e-8])
@pytest.mark.parametrize("shape", [(64, 10), (7, 10), (10, 10), (1, 5), (6, 1)])
def test_value_and_gradient(shape, smallest):
    d, factor, norm = matrix(shape, smallest)
    d.requires_grad_()
    value = nuclear_norm(d)
    value.backward()
    assert value.item() == pytest.approx(norm.item(), rel=1e-12)
    assert value.item() == pytest.approx(torch.linalg.svdvals(d.detach()).sum().item(), rel=1e-12)
    torch.testing.assert_close(d.grad, factor, rtol=0, atol=1e-14 / smallest + 1e-12)


@pytest.mark.parametrize("smallest", [0.5, 1e-3])
def test_single_precision(smallest):
    d, factor, norm = matrix((64, 100), smallest, torch.float32)
    assert nuclear_norm(d).item() == pytest.approx(norm.item(), rel=1e-5)
    torch.testing.assert_close(polar_factor(d).double(), factor, rtol=0, atol=1e-6 / smallest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_and_a_single_direction(dtype):
    zero = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    nuclear_norm(zero).backward()
    assert torch.equal(zero.grad, torch.zeros_like(zero))
    a, b = torch.tensor([3.0, 4.0], dtype=dtype), torch.tensor([1.0, 2.0, 2.0], dtype=dtype)
    assert nuclear_norm(torch.outer(a, b)).item() == pytest.approx(15, rel=1e-6)


def test_bfloat16_and_a_second_derivative():
    d = matrix((8, 5), 0.1, torch.bfloat16)[0]
    assert polar_factor(d).dtype == torch.float32
    d = matrix((8, 5), 0.1)[0].requires_grad_()
    (g,) = torch.autograd.grad(nuclear_norm(d), d, create_graph=True)
    with pytest.raises(RuntimeError, match="nuclear_norm is differentiable once"):
        g.sum().backward()
