"""Catastrophic overfitting: the epoch at which it sets in (paper, section 6 and appendix E)."""

from __future__ import annotations

DROP = 0.10
"""Fall of the robust accuracy: "a sudden drop of more than 10% on validation robust accuracy" (paper, section 6). Wong
et al. 2020 stop at 20 points between two epochs, but look at one training batch, which is noisier."""

KEPT = 1 / 3
"""Share of that fall that the accuracy at the training's own adversary may join in ("stays or rises"). A network that
is only worse than before falls under both attacks: by 0.49 and more in the falls of 10 points that healthy runs on the
digits had (eps 0.1 to 0.3, learning rates up to twice the default), by at most a third where overfitting had set in."""

JUMP = 1.5
"""Rise of the Jacobian norm at x' ("increases steeply", appendix E) over the best epoch's. Measured on small sets: 1.7
to 4.5 at the onset and more after it; a wobbling run, whose adversary had recovered before PGD did (share 0.25), had
1.3."""


class Watch:
    """Call `update` with each epoch's line of the log; the epochs of the ramp count too, as validation is at final eps.

    An epoch is overfitted where, compared with the best epoch so far (by robust accuracy, overfitted ones left out),
    the robust accuracy has fallen by more than DROP, the accuracy at the training's adversary by at most KEPT times
    that, and the Jacobian norm at that adversary has risen at least JUMP-fold. From then on every epoch is, until the
    robust accuracy is back within half of DROP of the best one. A robust accuracy below DROP therefore cannot fall so,
    and a training whose adversary is the validation's PGD is never called overfitted.

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
        if self.since is not None and self._fall(line) > DROP / 2:
            return True
        self.since = None
        if self._sets_in(line):
            self.since = line["epoch"]
            self.onsets.append(self.since)
            return True
        if self.best is None or line["robust_accuracy"] > self.best["robust_accuracy"]:
            self.best = {key: line[key] for key in self.KEYS}
        return False

    def _fall(self, line: dict, name: str = "robust_accuracy") -> float:
        assert self.best is not None  # there was an epoch before this one
        return self.best[name] - line[name]

    def _sets_in(self, line: dict) -> bool:
        if self.best is None or not self._fall(line) > DROP:
            return False
        unseen = self._fall(line, "adversary_accuracy") <= KEPT * self._fall(line)
        return unseen and line["jacobian_norm"] >= JUMP * self.best["jacobian_norm"]

    def healed(self) -> None:
        """The network is that of a healthy epoch again."""
        self.since = None

    def sentence(self, line: dict) -> str:
        """What happened in the epoch at which it set in."""
        best = self.best
        assert best is not None  # nothing sets in at the first epoch
        rise = line["jacobian_norm"] / best["jacobian_norm"] if best["jacobian_norm"] else float("inf")
        return (f"epoch {line['epoch']}: catastrophic overfitting sets in: robust accuracy "
                f"{line['robust_accuracy']:.2%} under PGD (epoch {best['epoch']}: {best['robust_accuracy']:.2%}) but "
                f"{line['adversary_accuracy']:.2%} at the training's own adversary ({best['adversary_accuracy']:.2%}), "
                f"Jacobian norm {rise:.2g} times as large")

    def state_dict(self) -> dict:
        return {"best": self.best, "since": self.since, "onsets": list(self.onsets)}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.since, self.onsets = state["best"], state["since"], list(state["onsets"])
