"""Cross-entropy plus beta KL against torch.nn.functional in float64, its gradients, and extreme logits."""

import pytest
import torch
import torch.nn.functional as F
from backends import DTYPES, assert_as_accurate, unchanged

from atlas_fast import ops
from atlas_fast.errors import UserError
from atlas_fast.ops._arguments import compute_dtype

CLASSES = [2, 3, 10, 100, 1000, 4097]
DIRECTIONS = ["adv||clean", "clean||adv"]


def plain(first, second, target, beta, reverse, smoothing):
    """(terms, d_first, d_second) by PyTorch's own functions and autograd, in the computing precision."""
    first, second = (None if t is None else t.detach().requires_grad_() for t in (first, second))
    wide = compute_dtype(first.dtype)
    ce = F.cross_entropy(first.to(wide), target, label_smoothing=smoothing)
    if second is None:
        return torch.stack([ce, ce, 0 * ce]).detach(), *torch.autograd.grad(ce, first), None
    log_p, log_q = first.to(wide).log_softmax(1), second.to(wide).log_softmax(1)
    base, other = (log_q, log_p) if reverse else (log_p, log_q)
    kl = F.kl_div(other, base, log_target=True, reduction="batchmean")
    loss = ce + beta * kl
    return torch.stack([loss, ce, kl]).detach(), *torch.autograd.grad(loss, (first, second))


def logits(backend, samples, classes, dtype=torch.float32, scale=3.0):
    first = backend.randn(samples, classes, seed=classes, dtype=torch.float64) * scale
    second = first + backend.randn(samples, classes, seed=classes + 1, dtype=torch.float64)
    target = torch.arange(samples, device=backend.device) * 7 % classes
    return first.to(dtype), second.to(dtype), target


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_terms_and_gradients(backend, classes, dtype, reverse, smoothing):
    first, second, target = logits(backend, 5 if classes < 1000 else 3, classes, dtype)
    with unchanged(first, second, target):
        results = ops.ce_kl_terms(first, second, target, 5.0, reverse, smoothing)
    arguments = (target, 5.0, reverse, smoothing)
    exact, same = plain(first.double(), second.double(), *arguments), plain(first, second, *arguments)
    assert results[0].dtype == compute_dtype(dtype) and results[1].dtype == results[2].dtype == dtype
    for result, reference, truth, factor in zip(results, same, exact, (2, 3, 3), strict=True):
        assert_as_accurate(result, reference, truth, factor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [10, 4097])
def test_without_second_it_is_cross_entropy(backend, classes, smoothing, dtype):
    first, _, target = logits(backend, 3, classes, dtype)
    terms, d_first, d_second = ops.ce_kl_terms(first, None, target, 0.0, label_smoothing=smoothing)
    exact = plain(first.double(), None, target, 0.0, False, smoothing)
    same = plain(first, None, target, 0.0, False, smoothing)
    assert d_second is None and terms[2] == 0 and terms[0] == terms[1]
    assert_as_accurate(terms, same[0], exact[0], 2)
    assert_as_accurate(d_first, same[1], exact[1], 3)


@pytest.mark.parametrize("samples", [1, 2, 17, 129])
def test_batch_sizes(backend, samples):
    first, second, target = logits(backend, samples, 10)
    results = ops.ce_kl_terms(first, second, target, 5.0)
    exact = plain(first.double(), second.double(), target, 5.0, False, 0)
    same = plain(first, second, target, 5.0, False, 0)
    for result, reference, truth, factor in zip(results, same, exact, (2, 3, 3), strict=True):
        assert_as_accurate(result, reference, truth, factor)


def test_no_samples(backend):
    first = torch.zeros(0, 10, device=backend.device)
    target = torch.zeros(0, dtype=torch.int64, device=backend.device)
    terms, d_first, d_second = ops.ce_kl_terms(first, first, target, 1.0)
    assert terms.isnan().all() and d_first.shape == d_second.shape == (0, 10)  # a mean of nothing, as in PyTorch


@pytest.mark.parametrize("classes", [10, 4100])
def test_strided_logits(backend, classes):
    first, second, target = logits(backend, 4, classes)
    expected = ops.ce_kl_terms(first, second, target, 2.0)
    results = ops.ce_kl_terms(first.T.contiguous().T, torch.cat([second, second], 1)[:, :classes], target, 2.0)
    for result, same in zip(results, expected, strict=True):
        assert torch.equal(result, same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_number_and_device_scalar_agree(backend, dtype):
    first, second, target = logits(backend, 5, 10, dtype)
    expected = ops.ce_kl_terms(first, second, target, 0.3)
    for beta in (backend.scalar(0.3, torch.float64), backend.scalar([0.3], torch.float64)):
        for result, same in zip(ops.ce_kl_terms(first, second, target, beta), expected, strict=True):
            assert torch.equal(result, same)


def test_two_runs_are_identical(backend):
    first, second, target = logits(backend, 33, 10)
    runs = [ops.ce_kl_terms(first, second, target, 1.0) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("classes", [3, 4098])
def test_huge_logits_stay_finite(backend, classes, reverse, dtype):
    """Logits of +-1e4: probabilities underflow on both sides, the loss is as large as the logits and exact."""
    first = torch.zeros(2, classes, dtype=dtype, device=backend.device)
    second = first.clone()
    first[:, 0], first[:, 1], second[:, 2] = 1e4, -1e4, 1e4
    target = torch.tensor([0, 1], device=backend.device)
    terms, d_first, d_second = ops.ce_kl_terms(first, second, target, 2.0, reverse)
    high = first[0, 0].item()
    expected = torch.tensor([high + 2 * high, high, high], dtype=terms.dtype, device=backend.device)
    assert torch.allclose(terms, expected, rtol=1e-6)
    assert d_first.isfinite().all() and d_second.isfinite().all()
    assert error_sum(d_first) < 1e-2 and error_sum(d_second) < 1e-2


def error_sum(gradient):
    """Softmax gradients of a row add up to 0."""
    return gradient.double().sum(1).abs().max().item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
def test_classes_ruled_out_by_infinite_logits(backend, reverse, dtype):
    """Classes with -inf in both logits do not exist: the same as without them."""
    first, second, target = logits(backend, 4, 6, dtype)
    expected = ops.ce_kl_terms(first, second, target, 2.0, reverse)
    hole = torch.full((4, 3), float("-inf"), dtype=dtype, device=backend.device)
    terms, d_first, d_second = ops.ce_kl_terms(
        torch.cat([first, hole], 1), torch.cat([second, hole], 1), target, 2.0, reverse)
    assert torch.allclose(terms, expected[0], rtol=1e-6)
    for gradient, same in ((d_first, expected[1]), (d_second, expected[2])):
        assert torch.allclose(gradient[:, :6], same, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-7)
        assert (gradient[:, 6:] == 0).all()


def test_impossible_targets(backend):
    first, second, target = logits(backend, 3, 5)
    for wrong in (-1, 5, 7, 2**40):
        target[1] = wrong
        if backend.name in ("reference", "cpp"):
            with pytest.raises((RuntimeError, IndexError)):
                ops.ce_kl_terms(first, second, target, 1.0)
        else:
            assert ops.ce_kl_terms(first, second, target, 1.0)[0][:2].isnan().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(backend, direction, smoothing):
    first, second, target = logits(backend, 3, 4, torch.float64, scale=1.0)
    assert torch.autograd.gradcheck(
        lambda a, b: ops.ce_kl(a, b, target, 0.7, direction=direction, label_smoothing=smoothing),
        (first.requires_grad_(), second.requires_grad_()), fast_mode=backend.name == "triton")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_public_function_is_the_loss_and_scales_its_gradient(backend, direction):
    first, second, target = logits(backend, 5, 10)
    first.requires_grad_(), second.requires_grad_()
    loss = ops.ce_kl(first, second, target, backend.scalar(5.0), direction=direction)
    terms, d_first, d_second = ops.ce_kl_terms(first, second, target, 5.0, direction == "clean||adv")
    assert loss.shape == () and torch.equal(loss.detach(), terms[0])
    grads = torch.autograd.grad(3 * loss, (first, second))
    assert torch.allclose(grads[0], 3 * d_first) and torch.allclose(grads[1], 3 * d_second)
    alone = ops.ce_kl(first, second.detach(), target, 5.0, direction=direction)
    assert torch.equal(torch.autograd.grad(alone, first)[0], d_first)


def test_directions_differ_as_named(backend):
    first, second, target = logits(backend, 4, 10, torch.float64)
    p, q = first.softmax(1), second.softmax(1)
    ce = F.cross_entropy(first, target)
    adv_clean, clean_adv = (p * (p / q).log()).sum(1).mean(), (q * (q / p).log()).sum(1).mean()
    assert torch.allclose(ops.ce_kl(first, second, target, 2.0, direction="adv||clean"), ce + 2 * adv_clean)
    assert torch.allclose(ops.ce_kl(first, second, target, 2.0, direction="clean||adv"), ce + 2 * clean_adv)


def test_second_derivative_raises(backend):
    """Also where the incoming gradient is a constant: once_differentiable would lose the curvature in silence."""
    first, second, target = logits(backend, 2, 3)
    (gradient,) = torch.autograd.grad(ops.ce_kl(first.requires_grad_(), second, target, 1.0), first, create_graph=True)
    with pytest.raises(RuntimeError, match="ce_kl is differentiable once"):
        gradient.sum().backward()


@pytest.mark.parametrize("call, message", [
    (lambda a, y: ops.ce_kl(a, a[:1], y, 1.0), "one shape, dtype and device"),
    (lambda a, y: ops.ce_kl(a, a.double(), y, 1.0), "one shape, dtype and device"),
    (lambda a, y: ops.ce_kl(a.half(), a.half(), y, 1.0), "float32, float64 or bfloat16 logits"),
    (lambda a, y: ops.ce_kl(a[0], a[0], y, 1.0), r"logits \[N, C\]"),
    (lambda a, y: ops.ce_kl(a, a, y[:1], 1.0), "int64 targets"),
    (lambda a, y: ops.ce_kl(a, a, y.int(), 1.0), "int64 targets"),
    (lambda a, y: ops.ce_kl(a, a, y.to("meta"), 1.0), "int64 targets"),
    (lambda a, y: ops.ce_kl(a, a, y, float("nan")), "beta must be finite"),
    (lambda a, y: ops.ce_kl(a, a, y, -1.0), "beta must be finite and >= 0"),
    (lambda a, y: ops.ce_kl(a, a, y, torch.ones(2)), "beta must be a number or a scalar tensor"),
    (lambda a, y: ops.ce_kl(a, a, y, 1.0, direction="both"), "direction must be one of"),
    (lambda a, y: ops.ce_kl(a, a, y, 1.0, label_smoothing=1.5), "label_smoothing must be in"),
    (lambda a, y: ops.ce_kl(a, a, y, 1.0, label_smoothing=float("nan")), "label_smoothing must be in"),
])
def test_wrong_use(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
