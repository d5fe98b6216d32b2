"""The estimate of ||J||_F^2 against exact Jacobians of a small net."""

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops.jacobian_norm import jacobian_norm_reference
from atlas_fast.ops.unit_vectors import unit_vectors_reference

SAMPLES, INPUTS, CLASSES = 3, 6, 4


@pytest.fixture
def net(backend):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(INPUTS, 5), torch.nn.Tanh(), torch.nn.Linear(5, CLASSES))
    return net.to(backend.device, torch.float64)


def images(backend, samples=SAMPLES):
    return backend.randn(samples, INPUTS, dtype=torch.float64).requires_grad_()


def jacobians(net, parameters, x):
    """[N, C, D], differentiable with respect to the parameters."""
    return vmap(jacrev(lambda sample: functional_call(net, parameters, (sample[None],))[0]))(x)


@pytest.mark.parametrize("projections", [1, 3])
def test_value_and_parameter_gradients_for_the_same_directions(backend, net, projections):
    x, rng = images(backend), backend.rng()
    value = ops.jacobian_norm(net(x), x, projections, rng)
    v = unit_vectors_reference(rng, SAMPLES, CLASSES, projections).double()
    products = torch.einsum("knc,ncd->knd", v, jacobians(net, dict(net.named_parameters()), x.detach()))
    exact = CLASSES * products.square().sum(2).mean()
    assert torch.allclose(value, exact, rtol=1e-6)
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads, truths = (torch.autograd.grad(loss, parameters, materialize_grads=True) for loss in (value, exact))
    for name, grad, truth in zip(names, grads, truths, strict=True):
        assert torch.allclose(grad, truth, rtol=1e-5, atol=1e-7), name


def test_gradcheck_with_respect_to_parameters(backend, net):
    x, rng = images(backend), backend.rng()
    names, parameters = zip(*net.named_parameters(), strict=True)

    def penalty(*values):
        return ops.jacobian_norm(functional_call(net, dict(zip(names, values, strict=True)), (x,)), x, 2, rng)

    assert torch.autograd.gradcheck(penalty, tuple(p.detach().requires_grad_() for p in parameters),
                                    fast_mode=backend.name == "triton")


def test_mean_is_the_exact_squared_frobenius_norm(backend, net):
    """One image many times: n independent estimates C v^T M v, M = J J^T, of tr M.

    Their variance on the sphere is 2C / (C + 2) (tr M^2 - (tr M)^2 / C). There is no factor 1/2 here: Hoffman et al.'s
    package `jacobian_regularizer` returns half of this value.
    """
    n = backend.fewer(8192)
    x = images(backend, 1).detach()
    jacobian = jacobians(net, dict(net.named_parameters()), x)[0].detach()
    exact, m = jacobian.square().sum(), jacobian @ jacobian.T
    deviation = (2 * CLASSES / (CLASSES + 2) * ((m @ m).trace() - exact**2 / CLASSES)).sqrt()
    many = x.expand(n, INPUTS).clone().requires_grad_()
    estimate = ops.jacobian_norm(net(many), many, 1, backend.rng(23, 0)).detach()
    assert abs(estimate - exact) < 4 * deviation / n**0.5 < 0.2 * exact


def test_agrees_with_its_reference(backend, net):
    x, rng = images(backend), backend.rng()
    assert torch.allclose(ops.jacobian_norm(net(x), x, 2, rng), jacobian_norm_reference(net(x), x, 2, rng), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_of_other_types(backend, net, dtype):
    x = images(backend).detach().to(dtype).requires_grad_()
    value = ops.jacobian_norm(net.to(dtype)(x), x, 1, backend.rng())
    exact = jacobian_norm_reference(net.double()(wide := x.detach().double().requires_grad_()), wide, 1, backend.rng())
    assert value.dtype == torch.float32
    assert torch.allclose(value.double(), exact, rtol=1e-5 if dtype == torch.float32 else 5e-2)


def test_second_derivative_raises(backend, net):
    x = images(backend)
    (gradient,) = torch.autograd.grad(ops.jacobian_norm(net(x), x), net[0].weight, create_graph=True)
    with pytest.raises(RuntimeError, match="squared_norm is differentiable once"):
        gradient.sum().backward()


def test_no_samples(backend, net):
    x = images(backend, 0)
    assert ops.jacobian_norm(net(x), x) == 0


def test_wrong_use():
    x = torch.rand(2, 3, requires_grad=True)
    for call, message in ((lambda: ops.jacobian_norm(x.sum(1), x), r"logits \[N, C\]"),
                          (lambda: ops.jacobian_norm(x[:1] * 2, x), r"logits \[N, C\]"),
                          (lambda: ops.jacobian_norm(x.detach() * 2, x.detach()), "requires_grad_"),
                          (lambda: ops.jacobian_norm(x * 2, x, 0), "num_projections must be a whole number of")):
        with pytest.raises(UserError, match=message):
            call()
