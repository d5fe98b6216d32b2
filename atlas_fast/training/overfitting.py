"""Catastrophic overfitting: the epoch at which it sets in (paper, section 6 and appendix E)."""

from __future__ import annotations

DROP = 0.10
"""Fall of the robust accuracy: "a sudden drop of more than 10% on validation robust accuracy" (paper, section 6). Wong
et al. 2020 stop at 20 points between two looks, but at one training batch, whose accuracy is the noisier one."""

KEPT = 1 / 3
"""Share of that fall that the accuracy at the training's own adversary may join in. A network that is only worse than
before falls under both attacks alike (measured in healthy runs on the digits: 0.49 of the fall and more)."""

JUMP = 1.5
"""Rise of the Jacobian norm at x' ("increases steeply", appendix E) over the best epoch's."""


class Watch:
    """Call `update` with each epoch's line of the log; the epochs of the ramp count too, as validation is at final eps.

    An epoch is overfitted where, compared with the best epoch so far (by robust accuracy, overfitted ones left out),
    the robust accuracy has fallen by more than DROP, the accuracy at the training's adversary by at most KEPT times
    that, and the Jacobian norm at that adversary has risen at least JUMP-fold. From then on every epoch is, until the
    robust accuracy is back within DROP of the best one. A robust accuracy below DROP therefore cannot fall so, and a
    training whose adversary is the validation's PGD is never called overfitted.

    best: that epoch's numbers (keys of the log), None before the first; since: epoch at which the present overfitting
    set in, None for a healthy network; onsets: all such epochs.
    """

    KEYS = ("epoch", "robust_accuracy", "adversary_accuracy", "jacobian_norm")

    def __init__(self):
        self.best: dict | None = None
        self.since: int | None = None
        self.onsets: list[int] = []

    def update(self, line: dict) -> bool:
        """Whether the network of this epoch is overfitted."""
        if self.best is not None and self._fallen(line) and (self.since is not None or self._unseen(line)):
            if self.since is None:
                self.since = line["epoch"]
                self.onsets.append(self.since)
            return True
        self.since = None
        if self.best is None or line["robust_accuracy"] > self.best["robust_accuracy"]:
            self.best = {key: line[key] for key in self.KEYS}
        return False

    def _fallen(self, line: dict) -> bool:
        return self.best["robust_accuracy"] - line["robust_accuracy"] > DROP

    def _unseen(self, line: dict) -> bool:
        """The training's own adversary does not show the fall, and the Jacobian does."""
        fall = self.best["robust_accuracy"] - line["robust_accuracy"]
        seen = self.best["adversary_accuracy"] - line["adversary_accuracy"]
        return seen <= KEPT * fall and line["jacobian_norm"] >= JUMP * self.best["jacobian_norm"]

    def healed(self) -> None:
        """The network is that of a healthy epoch again."""
        self.since = None

    def sentence(self, line: dict) -> str:
        """What happened in the epoch at which it set in."""
        best = self.best
        rise = line["jacobian_norm"] / best["jacobian_norm"] if best["jacobian_norm"] else float("inf")
        return (f"epoch {line['epoch']}: catastrophic overfitting sets in: robust accuracy "
                f"{line['robust_accuracy']:.2%} under PGD (epoch {best['epoch']}: {best['robust_accuracy']:.2%}) but "
                f"{line['adversary_accuracy']:.2%} at the training's own adversary ({best['adversary_accuracy']:.2%}), "
                f"Jacobian norm {rise:.2g} times as large")

    def state_dict(self) -> dict:
        return {"best": self.best, "since": self.since, "onsets": list(self.onsets)}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.since, self.onsets = state["best"], state["since"], list(state["onsets"])
