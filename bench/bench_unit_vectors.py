import torch

from atlas_fast import ops
from bench.cases import LOGITS, benchmark_test

SIZES = tuple(LOGITS)


def case(size, device):
    samples, classes = LOGITS[size]
    rng = ops.make_rng(0, 0, device)
    return {"atlas_fast": lambda: ops.unit_vectors(rng, samples, classes),
            "PyTorch": lambda: torch.nn.functional.normalize(torch.randn(samples, classes, device=device), dim=1)}


test_unit_vectors = benchmark_test(case, SIZES)
