"""When an answer to a fuzzed input is right, and which refusals are."""

import functools
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from atlas_fast.errors import UserError

DOCUMENTED = (UserError, ValueError, TypeError)

JUDGED = Counter()
"""Inputs that hypothesis made and that got the right answer or the right refusal: {test: number}."""

LEAST = {"attacks": 650, "command_lines": 160, "files": 550, "ops": 800}
"""How many of them each file must come to; the file's last test looks."""


def counted(test):
    """Below @given: an input is counted when the test has passed with it."""
    @functools.wraps(test)
    def passed(*arguments, **keywords):
        test(*arguments, **keywords)
        JUDGED[test.__name__] += 1

    return passed


def check_number(request) -> None:
    """The tests of the requesting file have judged as many inputs as LEAST says; skips where not all of them ran."""
    tests = {name for name, value in vars(request.module).items() if hasattr(value, "hypothesis")}
    if not tests <= {item.originalname for item in request.session.items}:
        pytest.skip("only some of the file's tests were asked for")
    judged = {name: JUDGED[name] for name in sorted(tests)}
    least = LEAST[request.path.stem.removeprefix("test_").removesuffix("_fuzz")]
    assert all(judged.values()) and sum(judged.values()) >= least, judged


def refused(call, *others: type[Exception]) -> None:
    """`call` must raise a documented error with a sentence. others: further errors that its docstring names."""
    try:
        result = call()
    except (*DOCUMENTED, *others) as error:
        assert str(error).strip(), f"{type(error).__name__} without a word"
        return
    raise AssertionError(f"accepted, with the result {result!r}")


@contextmanager
def unchanged(*tensors):
    """Inputs are bit for bit (NaN, too) what they were."""
    copies = [None if t is None else t.clone() for t in tensors]
    yield
    for tensor, copy in zip(tensors, copies, strict=True):
        assert tensor is None or _same(tensor, copy), "an input was changed"


def _same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def assert_right(result, plain, exact, factor: float = 2.0, elementwise: bool = True, scale: float = 0.0) -> None:
    """FlashAttention's rule: the error against float64 is at most `factor` times that of plain PyTorch, plus two units
    in the last place of the value (elementwise) or of the largest one, at least of `scale`.

    Where plain PyTorch of the same dtype overflows, anything may overflow; elsewhere NaN and infinity stand where
    float64 has them, and nowhere else.
    """
    assert result.dtype == plain.dtype and result.shape == plain.shape == exact.shape
    assert result.device == plain.device and not result.requires_grad
    found, plain, exact = result.double(), plain.double(), exact.double()
    rounded = exact.to(result.dtype).double()
    usual = rounded.isfinite() & plain.isfinite()
    odd = ~rounded.isfinite()
    assert torch.equal(found[odd].isnan(), exact[odd].isnan() | (plain[odd].isnan() & found[odd].isnan()))
    assert torch.equal(found[odd & exact.isinf()].nan_to_num(0), exact[odd & exact.isinf()].nan_to_num(0)) or (
        plain[odd & exact.isinf()] != exact[odd & exact.isinf()]).any()
    found, plain, exact = found[usual], plain[usual], exact[usual]
    if not len(found):
        return
    size, mistake, allowed = exact.abs().clamp_min(scale), (found - exact).abs(), factor * (plain - exact).abs()
    if not elementwise:
        size, allowed = size.max(), allowed.max()
    limits = torch.finfo(result.dtype)
    units = 32 if result.dtype == torch.float64 else 2  # float64 is the measure itself
    allowed = allowed + units * limits.eps * size + limits.tiny
    assert bool((mistake <= allowed).all()), f"off by {(mistake - allowed).max():.3g} of {size.max():.3g}"
