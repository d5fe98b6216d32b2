"""A whole training step, small enough for pytest-benchmark on a CPU; `python -m bench.step` has the large ones."""

import pytest

from bench.step_variants import build, variants
from bench.workload import batch, network, workload

VARIANTS = {v.name: v for v in variants("cpu") if not v.bf16}


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("method", ["atlas", "trades", "adv-3"])
@pytest.mark.parametrize(("model", "size"), [("small_cnn", 64), ("wrn-10-1", 8)])
def test_step(benchmark, model, size, method, variant):
    benchmark.group = f"{method} {model} {size}"
    call, _ = build(VARIANTS[variant], workload(method), network(model), *batch(model, size, "cpu"))
    benchmark.pedantic(call, warmup_rounds=1, rounds=5)
