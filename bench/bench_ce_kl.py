"""Forward and both logit gradients."""

import torch
import torch.nn.functional as F

from atlas_fast import ops
from bench.cases import LOGITS, benchmark_test

SIZES = tuple(LOGITS)
BETA = 5.0


def case(size, device):
    generator = torch.Generator().manual_seed(0)
    adv, clean = (torch.randn(LOGITS[size], generator=generator).to(device).requires_grad_() for _ in range(2))
    target = torch.randint(LOGITS[size][1], LOGITS[size][:1], generator=generator).to(device)

    def plain():
        kl = F.kl_div(F.log_softmax(clean, 1), F.softmax(adv, 1), reduction="batchmean")
        return torch.autograd.grad(F.cross_entropy(adv, target) + BETA * kl, (adv, clean))

    return {"atlas_fast": lambda: torch.autograd.grad(ops.ce_kl(adv, clean, target, BETA), (adv, clean)),
            "PyTorch": plain}


test_ce_kl = benchmark_test(case, SIZES)
