"""One run of Auto-PGD from given starts (Croce & Hein 2020, algorithm 1): L_inf and L2, any loss of the logits.

    z       = P(x_k + eta u(g_k)),   u = sign (L_inf) or g / ||g|| (L2),   P onto the ball and [0, 1]
    x_{k+1} = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1})),   a = 0.75, 1 in the first step

eta starts at 2 eps. At checkpoints (after 22% of the steps; the intervals shrink by 3% of the steps to no less than 6%)
eta is halved, and the run goes on from the best point so far, where the loss rose in at most rho of the interval's
steps, or where eta was kept at the last checkpoint and the best loss has not grown since.

Two details are those of the reference code, which every published AutoAttack number comes from, not of the paper: the
share counts as too small when it equals rho, and the first step "rose" when its loss is greater than 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .attempts import Outcome
from .balls import L2Ball, LinfBall
from .network import Network
from .survivors import keep_rows, per_image, survivors

# (logits, y, ...) -> (losses [N], d sum / d logits [N, C]); see losses.py
Loss = Callable[..., tuple[torch.Tensor, torch.Tensor]]

EARLY = (1, 2, 4, 8, 16)  # most samples that break do so early: rows leave after these steps and at checkpoints


def checkpoints(steps: int) -> dict[int, int]:
    """{step, counted from 1: length of the interval that ends there}."""
    length, shortest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    result, at = {}, length
    while at <= steps:
        result[at] = length
        length = max(length - shrink, shortest)
        at += length
    return result


@dataclass
class State:
    """What the rows of a run carry along: tensors with one entry per row."""

    sample: torch.Tensor
    attempt: torch.Tensor
    labels: tuple[torch.Tensor, ...]  # what the loss takes, y first
    x_adv: torch.Tensor
    x_previous: torch.Tensor
    gradient: torch.Tensor
    loss: torch.Tensor
    x_best: torch.Tensor
    best_gradient: torch.Tensor
    best_loss: torch.Tensor
    step_size: torch.Tensor
    rises: torch.Tensor  # steps of this interval in which the loss rose
    checked_loss: torch.Tensor  # the best loss at the last checkpoint
    halved: torch.Tensor  # whether the step size was halved there
    fooled: torch.Tensor
    settled: torch.Tensor  # fooled in full precision
    adversary: torch.Tensor  # the iterate that was misclassified first


class Run:
    """The ascent of some rows, each a sample and an attempt; adversaries go to `outcome` (attempts.py).

    labels: (y, ...), what the loss takes, [N] each; ball: around the images; start: images in the ball; eps: pixel
    units. `state` holds the rows that are left at the end: with x_best, the highest loss and where it was found.
    """

    def __init__(self, network: Network, loss: Loss, ball: LinfBall | L2Ball, eps: float, steps: int, rho: float):
        self._network, self._loss, self._ball = network, loss, ball
        self._eps, self._steps, self._rho = eps, steps, rho

    def __call__(self, outcome: Outcome, sample: torch.Tensor, attempt: torch.Tensor,
                 labels: tuple[torch.Tensor, ...], start: torch.Tensor) -> State:
        self._outcome = outcome
        self._begin(sample, attempt, labels, start)
        at_checkpoint = checkpoints(self._steps)
        left = self._shrink()
        for step in range(1, self._steps + 1 if left else 1):
            self._step(1.0 if step == 1 else 0.75, last=step == self._steps)
            if step in at_checkpoint:
                self._adapt(self._rho * at_checkpoint[step])
            if (step in EARLY or step in at_checkpoint) and not self._shrink():
                break
        self._report()
        return self.state

    def _begin(self, sample, attempt, labels, start):
        losses, gradient, wrong = self._evaluate(start, labels)
        no = torch.zeros_like(wrong)
        step_size = torch.full_like(losses, 2 * self._eps, dtype=start.dtype).view(-1, *[1] * (start.dim() - 1))
        self.state = State(
            sample=sample, attempt=attempt, labels=labels, x_adv=start, x_previous=start, gradient=gradient,
            loss=torch.zeros_like(losses), x_best=start, best_gradient=gradient, best_loss=losses, step_size=step_size,
            rises=torch.zeros_like(losses), checked_loss=losses, halved=~no, fooled=no, settled=no, adversary=start)
        self._note(wrong)

    def _step(self, momentum, last):
        s = self.state
        z = self._ball.project(torch.addcmul(s.x_adv, s.step_size, self._ball.direction(s.gradient)))
        moved = s.x_adv.lerp(z, momentum).add_(s.x_adv - s.x_previous, alpha=1 - momentum)
        s.x_previous, s.x_adv = s.x_adv, self._ball.project(moved)
        losses, gradient, wrong = self._evaluate(s.x_adv, s.labels, with_gradient=not last)
        self._note(wrong)
        s.rises, s.loss = s.rises + (losses > s.loss), losses
        better = losses > s.best_loss
        s.best_loss = torch.where(better, losses, s.best_loss)
        better = per_image(better, s.x_adv)
        s.x_best = torch.where(better, s.x_adv, s.x_best)
        if not last:
            s.gradient, s.best_gradient = gradient, torch.where(better, gradient, s.best_gradient)

    def _adapt(self, enough):
        """A checkpoint: where the ascent has stalled, halve the step size and go back to the best point."""
        s = self.state
        stalled = (s.rises <= enough) | (~s.halved & (s.checked_loss >= s.best_loss))
        s.halved, s.checked_loss, s.rises = stalled, s.best_loss, torch.zeros_like(s.rises)
        stalled = per_image(stalled, s.x_adv)
        s.step_size = torch.where(stalled, s.step_size / 2, s.step_size)
        s.x_adv = torch.where(stalled, s.x_best, s.x_adv)
        s.gradient = torch.where(stalled, s.best_gradient, s.gradient)

    def _evaluate(self, x, labels, with_gradient=True):
        """(losses [N], gradient like x or None, misclassified [N])."""
        losses = None

        def cotangent(logits):
            nonlocal losses
            losses, slope = self._loss(logits, *labels)
            return slope.to(logits.dtype)

        if with_gradient:
            logits, gradient = self._network.gradient(x, cotangent)
        else:
            logits, gradient = self._network.logits(x), None
            losses, _ = self._loss(logits, *labels)
        return losses, gradient, logits.argmax(1) != labels[0]

    def _note(self, wrong):
        """In full precision the first misclassified iterate stays; otherwise the last one until it has been checked."""
        s = self.state
        s.adversary = torch.where(per_image(wrong & ~s.settled, s.x_adv), s.x_adv, s.adversary)
        s.fooled = s.fooled | wrong
        if self._network.exact:
            s.settled = s.fooled

    def _shrink(self) -> bool:
        """Drop the rows that are done; False where none is left. Waits for the device."""
        s = self.state
        self._report()
        rows = survivors(self._outcome.done(s.sample, s.attempt), self._outcome.granularity)
        if rows is None:
            return True
        keep_rows(s, rows)
        self._ball.keep(rows)
        return len(rows) > 0

    def _report(self):
        s = self.state
        if not self._network.exact:
            self._settle()
        self._outcome.note(s.sample, s.attempt, s.fooled, s.adversary)

    def _settle(self):
        """Gradients of low precision come with logits of low precision: a success must be one in full precision."""
        s = self.state
        claims = (s.fooled & ~s.settled).nonzero().squeeze(1)
        if len(claims):
            right = self._network.logits(s.adversary[claims]).argmax(1) == s.labels[0][claims]
            s.fooled = s.fooled.index_fill(0, claims[right], False)
            s.settled = s.fooled
