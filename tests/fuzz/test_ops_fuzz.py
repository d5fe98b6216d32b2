"""Every operation: the answer of its definition in float64, or one of the errors that its docstring names."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from judging import assert_right, check_number, counted, refused, unchanged
from strategies import (
    OTHERS,
    floats,
    image_shapes,
    labels,
    radii,
    shapes,
    tensors,
    wrong_labels,
    wrong_radii,
)

from atlas_fast import ops

data = st.data()
word = st.integers(0, 2**32 - 1)


@st.composite
def streams(draw):
    """(rng, purpose, sample_offset)."""
    rng = ops.make_rng(draw(st.integers(-(2**63), 2**64 - 1)), draw(st.integers(0, 2**40)))
    rng = torch.stack([rng, rng], 1)[:, 0] if draw(st.booleans()) else rng  # strided now and then
    return rng, draw(word), draw(st.integers(-3, 2**40))


def wide(*tensors):
    return [None if t is None else t.double() for t in tensors]


def radius_of(draw, dtype):
    """(what the operation is given, its value): a number or a scalar tensor of any floating type."""
    value = draw(radii)
    if not draw(st.booleans()):
        return value, value
    tensor = torch.tensor(value, dtype=draw(st.sampled_from((torch.float32, torch.float64))))
    stored = tensor.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return tensor, float(stored)


@given(data)
@counted
def test_random_bits(data):
    rng, purpose, offset = data.draw(streams())
    samples, n = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 70))
    found = ops.random_bits(rng, samples, n, purpose, offset)
    assert torch.equal(found, ops.random_bits_reference(rng, samples, n, purpose, offset))
    assert found.dtype == torch.int64 and found.shape == (samples, n)


@given(data)
@counted
def test_unit_vectors(data):
    rng, purpose, offset = data.draw(streams())
    samples, classes, draws = data.draw(st.integers(0, 70)), data.draw(st.integers(1, 70)), data.draw(st.integers(1, 3))
    purpose %= 2**16
    found = ops.unit_vectors(rng, samples, classes, draws, purpose, offset)
    exact = ops.unit_vectors_reference(rng, samples, classes, draws, purpose, offset)
    assert found.dtype == torch.float32 and found.shape == (draws, samples, classes)
    assert torch.allclose(found, exact, rtol=0, atol=2e-6)


@given(data)
@counted
def test_random_start(data):
    dtype = data.draw(floats)
    shape = data.draw(st.one_of(image_shapes, st.tuples(st.integers(0, 3), st.integers(0, 2000))))
    x = data.draw(tensors(shape, dtype))
    (eps, value), (rng, purpose, offset) = radius_of(data.draw, dtype), data.draw(streams())
    with unchanged(x, rng):
        found = ops.random_start(x, eps, rng, purpose, offset)
    assert_right(found, ops.random_start_reference(x, value, None, rng, purpose, offset),
                 ops.random_start_reference(x.double(), value, None, rng, purpose, offset), scale=1)


@given(data)
@counted
def test_pgd_step(data):
    dtype, shape = data.draw(floats), data.draw(st.one_of(image_shapes, shapes.filter(lambda s: len(s) > 1)))
    x, x_adv, g = (data.draw(tensors(shape, dtype, kind)) for kind in ("unit", "unit", "wide"))
    (eps, eps_value), (step, step_value) = radius_of(data.draw, dtype), radius_of(data.draw, dtype)
    with unchanged(x, x_adv, g):
        found = ops.pgd_step(x, x_adv, g, eps, step)
    assert_right(found, ops.pgd_step_reference(x, x_adv, g, eps_value, None, step_value, None),
                 ops.pgd_step_reference(*wide(x, x_adv, g), eps_value, None, step_value, None), scale=1)


@given(data)
@counted
def test_fgsm(data):
    dtype, shape = data.draw(floats), data.draw(image_shapes)
    x, g = data.draw(tensors(shape, dtype)), data.draw(tensors(shape, dtype, "wide"))
    (eps, eps_value), (step, step_value) = radius_of(data.draw, dtype), radius_of(data.draw, dtype)
    rng, purpose, offset = data.draw(streams())
    with unchanged(x, g, rng):
        found = ops.fgsm(x, g, eps, step, rng, purpose, offset)
    assert_right(found, ops.fgsm_reference(x, g, eps_value, None, step_value, None, rng, purpose, offset),
                 ops.fgsm_reference(*wide(x, g), eps_value, None, step_value, None, rng, purpose, offset), scale=1)


@given(data)
@counted
def test_image_operations_refuse(data):
    """One argument of three is wrong: its dtype, shape, size, or the random state."""
    x = torch.rand(2, 3, 4, 4)
    wrong = data.draw(st.one_of(
        st.sampled_from(OTHERS).map(x.to), st.sampled_from((x[0, 0, 0], x[:1], x[..., :3], x.double(), x.bfloat16(),
                                                            x.flatten(), x[:, :, None], x.to("meta"), None, 0.5))))
    bad = data.draw(wrong_radii)
    rng = ops.make_rng(0)
    state = data.draw(st.sampled_from((rng.int(), rng.float(), rng[:1], rng[None], rng.to("meta"), 7, [0, 1])))
    number = data.draw(st.sampled_from((-1, 2**32, 2**70, 0.5, "1")))
    place = data.draw(st.integers(0, 2))
    three = [x, x, x]
    three[place] = wrong
    refused(lambda: ops.pgd_step(*three, 0.1, 0.1))
    refused(lambda: ops.fgsm(*three[:2], 0.1, 0.1, rng) if place < 2 else ops.fgsm(x, wrong, 0.1, 0.1, rng))
    refused(lambda: ops.pgd_step(x, x, x, *((bad, 0.1) if place else (0.1, bad))))
    refused(lambda: ops.fgsm(x, x, *((bad, 0.1) if place else (0.1, bad)), rng))
    refused(lambda: ops.random_start(x, bad, rng))
    refused(lambda: ops.random_start(x, 0.1, state))
    refused(lambda: ops.fgsm(x, x, 0.1, 0.1, state))
    refused(lambda: ops.fgsm(x, x, 0.1, 0.1, None))  # a fresh state would be another start than the gradient's
    refused(lambda: ops.random_start(x, 0.1, rng, purpose=number))
    refused(lambda: ops.fgsm(x, x, 0.1, 0.1, rng, purpose=number))
    refused(lambda: ops.random_bits(state if getattr(state, "is_cpu", True) else 0, 2, 3))  # "meta" is a fake's device
    refused(lambda: ops.random_bits(rng, 2, 3, purpose=number))
    refused(lambda: ops.random_bits(rng, *data.draw(st.sampled_from(((-1, 2), (2, -1), (0.5, 1), (2, None))))))
    sizes = data.draw(st.sampled_from(((-1, 2), (2, 0), (2, 2, 0), (1.5, 2), (2, "2"))))
    refused(lambda: ops.unit_vectors(rng, *sizes))
    refused(lambda: ops.make_rng(data.draw(st.sampled_from((2**64, -(2**63) - 1, 0.5, "seed", None)))))
    refused(lambda: ops.stream(*data.draw(st.sampled_from(((256, 0), (-1, 0), (0, 2**23), (0, -1))))))


@given(data)
@counted
def test_crop_flip(data):
    shape = data.draw(image_shapes)
    dtype = data.draw(st.sampled_from((torch.uint8, torch.float32, torch.float64)))
    x = data.draw(tensors(shape, torch.float64, special=dtype != torch.uint8))
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    rng, purpose, offset = data.draw(streams())
    padding, flip = data.draw(st.sampled_from((0, 1, 4, 25))), data.draw(st.booleans())
    index = None
    if len(x) and data.draw(st.booleans()):
        index = data.draw(labels(data.draw(st.integers(0, 5)), len(x)))
        index = index.repeat_interleave(2)[::2]
    layout = data.draw(st.sampled_from((torch.contiguous_format, torch.channels_last)))
    with unchanged(x, rng, index):
        found = ops.crop_flip(x, rng, padding, flip, index, layout, purpose, offset)
    exact = ops.crop_flip_reference(x, rng, padding, flip, index, layout == torch.channels_last, purpose, offset)
    assert torch.equal(found.nan_to_num(7), exact.nan_to_num(7)) and found.dtype == exact.dtype
    assert found.stride() == exact.stride()


@given(data)
@counted
def test_crop_flip_refuses(data):
    x, rng = torch.rand(3, 2, 5, 5), ops.make_rng(0)
    wrong = data.draw(st.sampled_from((x.half(), x.int(), x[0], x.bool(), x.to(torch.complex64), None)))
    refused(lambda: ops.crop_flip(wrong, rng))
    refused(lambda: ops.crop_flip(x, rng, data.draw(st.sampled_from((-1, 2**16, 2**70, 0.5, True, "4", None)))))
    index = data.draw(st.sampled_from(([3], [-1], [0, 2**62], [-(2**63)])))
    refused(lambda: ops.crop_flip(x, rng, index=torch.tensor(index)), RuntimeError)
    index = data.draw(st.sampled_from((torch.tensor([0], dtype=torch.int32), torch.tensor([[0]]), torch.tensor([0.0]),
                                       torch.zeros(1, dtype=torch.int64, device="meta"), [0])))
    refused(lambda: ops.crop_flip(x, rng, index=index))
    refused(lambda: ops.crop_flip(x, rng, memory_format=torch.preserve_format))


@given(data)
@counted
def test_squared_norm(data):
    dtype = data.draw(floats)
    shape = data.draw(st.one_of(shapes, image_shapes, st.sampled_from(((40000,), (1,)))))
    g = data.draw(tensors(shape, dtype, data.draw(st.sampled_from(("normal", "wide")))))
    scale = data.draw(st.sampled_from((1.0, 0.0, 1e-3, 10 / 64, 1e6)))
    weight, value = radius_of(data.draw, dtype)
    with unchanged(g):
        result, gradient = ops.squared_norm(g, scale, weight)
    plain, exact = (ops.squared_norm_reference(t, scale, value, None, True) for t in (g, g.double()))
    assert_right(result, plain[0], exact[0])
    assert_right(gradient, plain[1], exact[1], 3)
    wrong = data.draw(st.sampled_from(OTHERS))
    refused(lambda: ops.squared_norm(g.to(wrong)))
    refused(lambda: ops.squared_norm(g, scale, data.draw(wrong_radii)) if dtype != torch.float64 else
            ops.squared_norm(g, scale, -1.0))


@given(data)
@counted
def test_ce_kl(data):
    dtype, reverse = data.draw(floats), data.draw(st.booleans())
    samples, classes = data.draw(st.integers(1, 9)), data.draw(st.sampled_from((1, 2, 3, 10, 16, 17, 70)))
    kind, special = data.draw(st.sampled_from(("normal", "normal", "wide"))), data.draw(st.booleans())
    first = data.draw(tensors((samples, classes), dtype, kind, special))
    second = data.draw(tensors((samples, classes), dtype, kind, special)) if data.draw(st.booleans()) else None
    y, smoothing = data.draw(labels(samples, classes)), data.draw(st.sampled_from((0.0, 0.1, 0.5, 1.0, 1e-30)))
    beta, value = radius_of(data.draw, dtype)
    with unchanged(first, second, y):
        found = ops.ce_kl_terms(first, second, y, beta, reverse, smoothing)
    plain = ops.ce_kl_reference(first, second, y, value, None, reverse, smoothing)
    exact = ops.ce_kl_reference(*wide(first, second), y, value, None, reverse, smoothing)
    for got, ours, true, factor in zip(found, plain, exact, (2, 3, 3), strict=True):
        if got is not None:
            largest = max(1.0, first.double().nan_to_num(0, 0, 0).abs().max().item())
            assert_right(got, ours, true, factor, elementwise=False,
                         scale=(1 + min(value, 1e30)) * (largest if factor == 2 else 1 / samples))


@given(data)
@counted
def test_ce_kl_refuses(data):
    z, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 4])
    refused(lambda: ops.ce_kl(z, z, data.draw(wrong_labels(4, 5)), 1.0), RuntimeError, IndexError)
    refused(lambda: ops.ce_kl(z, z, y, data.draw(wrong_radii)))
    refused(lambda: ops.ce_kl(z, z, y, 1.0, label_smoothing=data.draw(
        st.sampled_from((-0.1, 1.1, math.nan, math.inf, "0", None)))))
    refused(lambda: ops.ce_kl(z, z, y, 1.0, direction=data.draw(st.sampled_from(("", None, "adv", 3, [])))))
    bad = data.draw(st.sampled_from((z.half(), z.int(), z[0], z[:, :, None], z[:3], z.double(), z.to("meta"), None)))
    refused(lambda: ops.ce_kl(bad, z, y, 1.0))
    refused(lambda: ops.ce_kl(z, bad, y, 1.0) if bad is not None else ops.ce_kl(None, None, y, 1.0))


@given(data)
@counted
def test_jacobian_norm(data):
    """Of a linear map of the images, whose Jacobian is known."""
    dtype, n, classes = data.draw(floats), data.draw(st.integers(0, 4)), data.draw(st.integers(1, 6))
    matrix = data.draw(tensors((6, classes), dtype, "normal"))
    x, rng = data.draw(tensors((n, 2, 3), dtype)), data.draw(streams())[0]
    count, images = data.draw(st.integers(1, 3)), x.clone().requires_grad_()
    found = ops.jacobian_norm(images.flatten(1) @ matrix, images, count, rng)
    v = ops.unit_vectors(rng, n, classes, count).double()
    exact, plain = (((v.to(m.dtype) @ m.T).to(kind).square().sum() * (classes / (count * max(n, 1))))
                    for m, kind in ((matrix.double(), torch.float64), (matrix, found.dtype)))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_right(found.detach(), plain, exact, 3, scale=float(exact.nan_to_num(0, 0, 0)) * (
        2**16 if dtype == torch.bfloat16 else 8))
    for wrong in (lambda: ops.jacobian_norm(images.flatten(1) @ matrix, x, 1, rng),
                  lambda: ops.jacobian_norm(images.flatten(1) @ matrix, images, data.draw(
                      st.sampled_from((0, -1, 0.5, "1", None))), rng),
                  lambda: ops.jacobian_norm((images.flatten(1) @ matrix)[0] if n else images, images, 1, rng),
                  lambda: ops.jacobian_norm(matrix.clone().requires_grad_()[:n] * 1, images, 1, rng),
                  lambda: ops.jacobian_norm((images.flatten(1) @ matrix).half(), images.half(), 1, rng)):
        refused(wrong)


@given(data)
@counted
def test_nuclear_norm(data):
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    rows, columns = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
    matrix = data.draw(tensors((rows, columns), dtype, data.draw(st.sampled_from(("normal", "wide")))))
    found = ops.nuclear_norm(matrix)
    assert found.dtype == dtype and found.shape == ()
    if matrix.isfinite().all():
        values = torch.linalg.svdvals(matrix.double()) if matrix.numel() else torch.zeros(1)
        if values.sum() < 1e37:
            limit = 1e-5 if dtype == torch.float32 else 1e-10
            assert abs(float(found) - float(values.sum())) <= limit * float(values.sum()) + 1e-44
    else:
        assert not found.isfinite()
    wrong = data.draw(st.sampled_from((matrix[..., None], matrix.flatten(), matrix.int(), matrix.half(), None)))
    refused(lambda: ops.nuclear_norm(wrong))


@st.composite
def norms(draw):
    """What the three BatchNorm operations share: (activations, groups, parameters, relu)."""
    dtype, groups = draw(floats), draw(st.sampled_from((1, 2)))
    shape = (groups * draw(st.integers(0, 2)), draw(st.sampled_from((1, 3, 17))), draw(st.integers(1, 9)),
             draw(st.integers(1, 9)))
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    optional = [draw(tensors((shape[1],), statistics, "normal", False)).contiguous() if draw(st.booleans()) else None
                for _ in range(2)]
    return shape, dtype, statistics, groups, optional, draw(st.booleans())


def normalisation(draw, shape, groups, statistics):
    """mean and rstd, [groups, C]."""
    mean = draw(tensors((groups, shape[1]), statistics, "normal", False)).contiguous()
    return mean, draw(tensors((groups, shape[1]), statistics, "unit", False)).contiguous() + 0.5


@given(data)
@counted
def test_norm_relu(data):
    shape, dtype, statistics, groups, (weight, bias), relu = data.draw(norms())
    a = data.draw(tensors(shape, dtype, "normal"))
    residual = data.draw(tensors(shape, dtype, "normal")) if data.draw(st.booleans()) else None
    batch = data.draw(st.booleans())
    running = [None, None]
    if data.draw(st.booleans()):
        running = [torch.rand(shape[1], dtype=statistics) + 0.1 for _ in range(2)]
    arguments = [groups, batch, data.draw(st.sampled_from((0.1, 0.0, 1.0))), data.draw(st.sampled_from((1e-5, 1e-3))),
                 relu]
    if (batch and a.numel() <= groups * shape[1]) or (not batch and running[0] is None):
        refused(lambda: ops.norm_relu(a, residual, weight, bias, *running, *arguments))
        return
    copies, exact_running = ([None if r is None else r.to(kind, copy=True) for r in running]
                             for kind in (statistics, torch.float64))
    with unchanged(a, residual, weight, bias):
        found = ops.norm_relu(a, residual, weight, bias, *running, *arguments)
    plain = ops.norm_relu_reference(a, residual, weight, bias, *copies, *arguments)
    z = plain[0] if residual is not None else a  # the statistics are those of z as stored
    exact = ops.norm_relu_reference(z.double(), None, *wide(weight, bias), *exact_running, *arguments)
    assert torch.equal(found[0].nan_to_num(7), z.nan_to_num(7))
    answers = zip((*found[1:], *running), (*plain[1:], *copies), (*exact[1:], *exact_running), strict=True)
    for got, ours, true in answers:
        if got is not None:
            assert_right(got, ours, true, elementwise=False)


def zeros(draw, n, dtype):
    """A gradient to add to, or None."""
    return torch.zeros(n, dtype=dtype) if draw(st.booleans()) else None


@given(data)
@counted
def test_norm_relu_backward(data):
    shape, dtype, statistics, groups, parameters, relu = data.draw(norms())
    g, z = (data.draw(tensors(shape, dtype, "normal", special=False)) for _ in range(2))
    added = data.draw(tensors(shape, dtype, "normal", special=False)) if data.draw(st.booleans()) else None
    inputs = [g, z, *normalisation(data.draw, shape, groups, statistics), *parameters, added]
    grads, batch = [zeros(data.draw, shape[1], statistics) for _ in range(2)], data.draw(st.booleans())
    answers = []
    for convert, kind in ((list, statistics), (lambda ts: wide(*ts), torch.float64)):
        copies = [None if grad is None else torch.zeros_like(grad, dtype=kind) for grad in grads]
        answers.append((*ops.norm_relu_backward_reference(*convert(inputs), None, *copies, groups, batch, relu, True),
                        *copies))
    with unchanged(*inputs):
        found = ops.norm_relu_backward(*inputs, None, *grads, groups, batch, relu)
        _, own = ops.norm_relu_backward(*inputs[:-1], groups=groups, relu=relu, input_too=False)
        in_two = ops.norm_relu_backward(*inputs, groups=groups, relu=relu, given=own) if batch else found
    for got, ours, true in zip((*found, *grads), *answers, strict=True):
        if got is not None:
            assert_right(got, ours, true, 3, elementwise=False, scale=1)
    assert_right(in_two[0], answers[0][0], answers[1][0], 3, elementwise=False, scale=1)


@given(data)
@counted
def test_norm_relu_tangent(data):
    shape, dtype, statistics, groups, parameters, relu = data.draw(norms())
    t, g, z = (data.draw(tensors(shape, dtype, "normal", special=False)) for _ in range(3))
    added = data.draw(tensors(shape, dtype, "normal", special=False)) if data.draw(st.booleans()) else None
    batch = data.draw(st.booleans())
    means = normalisation(data.draw, shape, groups, statistics)
    sums = data.draw(tensors((2, groups, shape[1]), statistics, "normal", special=False)).contiguous()
    grad, inputs = zeros(data.draw, shape[1], statistics), [g, z, *means, *parameters, sums]
    tz, answers = t if added is None else t + added, []
    for convert, kind in ((list, statistics), (lambda ts: wide(*ts), torch.float64)):
        copy = None if grad is None else torch.zeros_like(grad, dtype=kind)
        sum_, *rest = convert([tz, *inputs])
        results = ops.norm_relu_tangent_reference(sum_, None, *rest, copy, groups, batch, relu)
        answers.append((sum_, *results[1:3], copy))
    with unchanged(t, added, *inputs):
        found = ops.norm_relu_tangent(t, added, *inputs, grad, groups, batch, relu)
        whole, own = ops.norm_relu_tangent_sums(t, added, *inputs[:-1], groups, relu)
        in_two = ops.norm_relu_tangent(whole, None, *inputs, None, groups, True, relu, own) if batch else found
    for got, ours, true in zip((*found, grad), *answers, strict=True):
        if got is not None:
            assert_right(got, ours, true, 3, elementwise=False, scale=float(z.shape[2:].numel()) ** 0.5)
    for got, ours, true in zip(in_two[1:], answers[0][1:3], answers[1][1:3], strict=True):
        assert_right(got, ours, true, 3, elementwise=False, scale=float(z.shape[2:].numel()) ** 0.5)


@given(data)
@counted
def test_norm_operations_refuse(data):
    a, c = torch.randn(4, 3, 2, 2), torch.ones(3)
    rows = c[None]
    wrong = data.draw(st.sampled_from((a.half(), a.int(), a[0], a[:3], a.double(), a[..., :1], a.to("meta"))))
    groups = data.draw(st.sampled_from((0, -1, 3, 8, 0.5, None, "1")))
    column = data.draw(st.sampled_from((torch.ones(4), c.double(), c.int(), torch.ones(6)[::2], c[None], c.to("meta"))))
    refused(lambda: ops.norm_relu(a, wrong, c, c, c.clone(), c.clone()))
    refused(lambda: ops.norm_relu(a, None, c, c, c.clone(), c.clone(), groups))
    refused(lambda: ops.norm_relu(a, None, column, c, c.clone(), c.clone()))
    refused(lambda: ops.norm_relu(a, None, c, c, column, c.clone()))
    refused(lambda: ops.norm_relu(a, None, c, c, None, c.clone()))
    refused(lambda: ops.norm_relu_backward(wrong, a, rows, rows, c, c))
    refused(lambda: ops.norm_relu_backward(a, a, column if column.dim() == 1 else c, rows, c, c))
    refused(lambda: ops.norm_relu_backward(a, a, rows, rows, c, c, groups=groups))
    refused(lambda: ops.norm_relu_backward(a, a, rows, rows, c, c, extra=torch.randn(5, 3, 2, 2)))
    refused(lambda: ops.norm_relu_tangent(wrong, None, a, a, rows, rows, c, c, torch.zeros(2, 1, 3)))
    refused(lambda: ops.norm_relu_tangent(a, None, a, a, rows, rows, c, c, torch.zeros(2, 3)))
    refused(lambda: ops.norm_relu_tangent(a, None, a, a, rows, rows, c, column, torch.zeros(2, 1, 3)))


@given(data)
@counted
def test_relu_max_pool(data):
    pairs = [(data.draw(st.integers(1, most)), data.draw(st.integers(1, most))) for most in (4, 4, 3)]
    kernel, stride, dilation = pairs
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    window, ceil = (kernel, stride, padding, dilation), data.draw(st.booleans())
    dtype, shape = data.draw(floats), data.draw(image_shapes)
    x = data.draw(tensors(shape, dtype, "normal"))
    try:
        y, codes = ops.relu_max_pool_reference(x, *window, ceil)
    except RuntimeError:
        refused(lambda: ops.relu_max_pool(x, *window, ceil), RuntimeError)
        return
    with unchanged(x):
        found, own = ops.relu_max_pool(x, *window, ceil)
    assert torch.equal(found.nan_to_num(7), y.nan_to_num(7)) and torch.equal(own, codes)
    g, t = data.draw(tensors(y.shape, dtype, "normal", False)), data.draw(tensors(shape, dtype, "normal"))
    with unchanged(g, t, own):
        dx = ops.relu_max_pool_backward(g, own, shape[2:], *window)
        tangent = ops.relu_max_pool_tangent(t, own, *window)
    assert torch.equal(tangent.nan_to_num(7), ops.relu_max_pool_tangent_reference(t, codes, *window).nan_to_num(7))
    assert_right(dx, *(ops.relu_max_pool_backward_reference(v, codes, shape[2:], *window) for v in (g, g.double())),
                 scale=float(g.double().abs().max()) if g.numel() else 0)


@given(data)
@counted
def test_relu_max_pool_refuses(data):
    x, codes = torch.rand(1, 2, 8, 8), torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    huge = data.draw(st.sampled_from((2**31, 2**62, 2**63 - 1, -(2**63), 2**70, -1, 0)))
    place, side = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 1))
    window = [[2, 2], [2, 2], [0, 0], [1, 1]]
    window[place][side] = huge
    if not (place == 2 and huge == 0):
        for ceil in (False, True):
            if not (place == 1 and huge > 0):  # one window an axis: a stride of any size is one
                refused(lambda ceil=ceil: ops.relu_max_pool(x, *window, ceil), RuntimeError)
        refused(lambda: ops.relu_max_pool_backward(codes.float(), codes, (8, 8), *window), RuntimeError)
        refused(lambda: ops.relu_max_pool_tangent(x, codes, *window), RuntimeError)
    kernel = data.draw(st.sampled_from((2, (2,), (2, 2, 2), None, "22", (2.5, 2), (16, 16))))
    refused(lambda: ops.relu_max_pool(x, kernel, (2, 2)), RuntimeError)
    refused(lambda: ops.relu_max_pool(x, (2, 2), kernel if kernel != (16, 16) else None), RuntimeError)
    size = data.draw(st.sampled_from(((6, 8), (2**40, 2**40), (-8, 8), (0, 0), (2**70, 8), (8,), 8, None)))
    refused(lambda: ops.relu_max_pool_backward(codes.float(), codes, size, (2, 2), (2, 2)), RuntimeError)
    bad = data.draw(st.sampled_from((x.half(), x.int(), x[0], x[:, :1], None)))
    refused(lambda: ops.relu_max_pool_tangent(bad, codes, (2, 2), (2, 2)), RuntimeError)


@given(data)
@counted
def test_winograd(data):
    """Of channels below and above a register's 16, and odd sizes; NaN is for the operation's own test."""
    channels, filters = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    padding, last = data.draw(st.integers(0, 2)), data.draw(st.booleans())
    smallest = max(1, 3 - 2 * padding)
    sizes = data.draw(st.integers(0, 5)), *(data.draw(st.integers(smallest, 20)) for _ in range(2))
    layout = torch.channels_last if last else torch.contiguous_format
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    x = torch.randn(sizes[0], channels, *sizes[1:], generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(filters, channels, 3, 3, generator=generator)
    y = ops.winograd_convolution_reference(x.double(), weight.double(), None, padding, False)
    g = torch.randn(y.shape, generator=generator)
    with unchanged(x, weight, g):
        results = (ops.winograd_convolution(x, weight, padding=padding),
                   ops.winograd_convolution(g, weight, padding=2 - padding, adjoint=True),
                   ops.winograd_weight_gradient(x, g, padding))
    expected = (y, ops.winograd_convolution_reference(g.double(), weight.double(), None, 2 - padding, True),
                ops.winograd_weight_gradient_reference(x.double(), g.double(), padding))
    for result, exact in zip(results, expected, strict=True):
        assert result.shape == exact.shape and result.dtype == torch.float32
        # the outputs of a tile share the rounding of its largest
        assert (result - exact).norm() <= 1e-5 * exact.norm() + 1e-5


@given(data)
@counted
def test_winograd_refuses(data):
    x, weight = torch.rand(2, 4, 8, 8), torch.rand(6, 4, 3, 3)
    wrong = data.draw(st.sampled_from((x.half(), x.double(), x[0], x[:, :3], x[:, :, :0], None, 3.0)))
    refused(lambda: ops.winograd_convolution(wrong, weight, padding=0))
    foreign = data.draw(st.sampled_from((x.half(), x.double(), x[0], x[:1], x[:, :, :7], None, 3.0)))
    refused(lambda: ops.winograd_weight_gradient(x, foreign))
    padding = data.draw(st.one_of(st.integers(3), st.integers(max_value=-1), st.floats(), st.none()))
    refused(lambda: ops.winograd_convolution(x, weight, padding=padding if padding not in (0, 1, 2) else 3))
    kernel = data.draw(st.sampled_from((weight[:, :3], weight[:, :, :2], weight.double(), weight[0], None)))
    refused(lambda: ops.winograd_convolution(x, kernel))


def test_every_operation_is_here():
    """A new operation needs a fuzz test of its own."""
    tested = {"random_bits", "unit_vectors", "random_start", "pgd_step", "fgsm", "crop_flip", "squared_norm", "ce_kl",
              "norm_relu", "norm_relu_backward", "norm_relu_tangent", "relu_max_pool", "relu_max_pool_backward",
              "relu_max_pool_tangent", "winograd_convolution", "winograd_weight_gradient"}
    assert set(ops.backends()) == tested


def test_the_number_of_inputs(request):
    check_number(request)
