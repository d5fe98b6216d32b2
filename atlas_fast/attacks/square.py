"""Square attack (Andriushchenko et al. 2020): random search by square-shaped changes, with scores and no gradient.

With its default arguments it is the part of standard AutoAttack of that name (Croce & Hein 2020): margin loss, 5000
queries after the initial image, p_init 0.8, the schedule of p as published for 10000 queries and not rescaled.
There, one window per query serves the whole batch; here, as in the paper, every sample has its own, from counter-based
random numbers of (sample, query), so that a sample's result depends on neither the batch nor on who left it.
"""

from __future__ import annotations

import torch

from .. import ops
from ..errors import UserError
from ..ops.rng import resolve_rng
from .checks import at_least_one, check_batch, check_logits, positive
from .network import Network
from .square_proposals import PROPOSALS
from .statistics import norm_layers, statistics_kept
from .steps import check_norm
from .survivors import granularity, per_image, survivors

BLOCK = 50  # queries whose random numbers one launch draws
CHECK_EVERY = 10  # queries between two looks at how many samples are left; each look waits for the device

# Queries after which p halves (the paper's schedule, for 10000 queries).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square:
    """Lowers the margin z_y - max_{j != y} z_j by keeping those random changes that lower it; a sample with margin <= 0
    is broken and keeps its image.

    eps: radius in pixel units; queries: proposals per sample and restart, beside the initial image; restarts: a sample
    keeps the image of the lowest margin over restarts; p_init: initial share of pixels that change; norm: "Linf" (the
    image starts with vertical stripes of +-eps) or "L2"; rescale_schedule: stretch the schedule of p to `queries`.
    Raises UserError for values that make no sense.
    """

    def __init__(self, eps: float, queries: int = 5000, restarts: int = 1, p_init: float = 0.8, norm: str = "Linf",
                 rescale_schedule: bool = False):
        self.eps = positive(eps, "eps")
        self.queries = at_least_one(queries, "queries")
        self.restarts = at_least_one(restarts, "restarts")
        self.p_init = positive(p_init, "p_init")
        if p_init > 1:
            raise UserError(f"p_init is a share of the pixels, at most 1, got {p_init}")
        self.norm = check_norm(norm)
        self.rescale_schedule = bool(rescale_schedule)

    @property
    def settings(self) -> dict:
        """What a report should say about this attack."""
        return {"eps": self.eps, "norm": self.norm, "queries": self.queries, "restarts": self.restarts,
                "p_init": self.p_init, "rescale_schedule": self.rescale_schedule, "loss": "margin"}

    def __call__(self, model: torch.nn.Module | Network, x: torch.Tensor, y: torch.Tensor,
                 rng: torch.Tensor | None = None, sample_offset: int = 0) -> torch.Tensor:
        """x_adv like x, in the eps-ball and in [0, 1]: the image of the lowest margin; x where x is misclassified.

        model: images -> logits [N, classes], or a `Network` of it; x: float images [N, C, H, W] in [0, 1]; y: int64
        labels [N]; rng: int64 [2] (seed, step) on x's device, None
        draws a seed from torch's default generator; sample_offset: index of the first sample. The model stays in its
        mode; evaluate in eval mode. Raises UserError for other inputs or a model that returns no logits [N, C].
        """
        check_batch(x, y)
        if x.dim() != 4:
            raise UserError(f"Square needs images [N, C, H, W], got shape {list(x.shape)}")
        rng = resolve_rng(rng, x.device)
        x = x.detach().contiguous()
        network, best = Network(model), x.clone()
        with statistics_kept(norm_layers(network.model)):
            logits = network.logits(x)
            check_logits(logits, y)
            lowest = margin(logits, y)
            for restart in range(self.restarts):
                self._restart(network, x, y, best, lowest, rng, restart, sample_offset)
        return best

    def proposal_share(self, query: int) -> float:
        """p, the share of pixels that proposal `query` (0, 1, ...) changes."""
        if self.rescale_schedule:
            query = int(query / self.queries * 10000)
        return self.p_init / 2 ** sum(query > after for after in _HALVINGS)

    def _restart(self, network, x, y, best, lowest, rng, restart, offset) -> None:
        """One random search on the samples that are not broken; writes what it lowers into best and lowest."""
        propose, step = PROPOSALS[self.norm](self.eps, x.shape[1:]), granularity(len(x))
        index = _rows(lowest, step)
        if index is None:
            index = torch.arange(len(x), device=x.device)
        elif len(index) == 0:
            return

        def words(block, n):
            purpose = ops.stream(ops.SQUARE, restart << 16 | block)
            return ops.random_bits(rng, len(x), n, purpose, offset)[index]

        images, labels = x[index], y[index]
        current = propose.initial(images, words(0, propose.initial_words))
        values = margin(network.logits(current), labels)
        values = torch.where(lowest[index] > 0, values, lowest[index])  # the broken ones among them only fill up
        for query in range(self.queries):
            if query % BLOCK == 0:
                drawn = words(1 + query // BLOCK, BLOCK * propose.words).view(len(index), BLOCK, propose.words)
            if query % CHECK_EVERY == 0 and (rows := _rows(values, step)) is not None:
                _keep_lower(best, lowest, index, current, values)
                index, images, labels, current, values, drawn = (
                    t[rows] for t in (index, images, labels, current, values, drawn))
                if len(index) == 0:
                    return
            candidate = propose(images, current, drawn[:, query % BLOCK], self.proposal_share(query))
            new = margin(network.logits(candidate), labels)
            better = (new < values) & (values > 0)
            values = torch.where(better, new, values)
            current = torch.where(per_image(better, current), candidate, current)
        _keep_lower(best, lowest, index, current, values)


def margin(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """z_y - max_{j != y} z_j, [N], in the logits' dtype; not above 0 where another class is predicted."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None])[:, 0] - others.amax(1)


def _rows(margins: torch.Tensor, step: int) -> torch.Tensor | None:
    return survivors(~(margins > 0), step)  # a margin that is not a number is beyond help


def _keep_lower(best, lowest, index, current, values) -> None:
    lower = values < lowest[index]
    best[index] = torch.where(per_image(lower, current), current, best[index])
    lowest[index] = torch.where(lower, values, lowest[index])
