"""The ramp of eps, the learning rate that robust accuracy guides, and the end of training (paper, appendix B)."""

from __future__ import annotations

STOP_AFTER = 10  # epochs in a row without improvement that end the training
FACTOR = 5.0  # what the learning rate is divided by
MILESTONES, MILESTONE_FACTOR = (0.55, 0.75, 0.9), 10.0  # of a fixed schedule: shares of the epochs (TRADES on MNIST)


class Schedule:
    """Epochs count from 1. Call `update` with the validation's accuracy after each epoch.

    The ramp rises per step from 0 and is 1 from the end of epoch `ramp_epochs` on. Epochs that end after the ramp
    count: the best of them is the best checkpoint; each `plateau_epochs`-th one in a row without improvement divides
    the learning rate by 5 (PyTorch's ReduceLROnPlateau(patience=2) would wait one longer); ten in a row end training,
    and so does `stopped`. fixed: the accuracy chooses the best checkpoint only; the learning rate is divided by 10
    after 55, 75 and 90% of the epochs, and all of them are trained unless `stopped`.
    """

    def __init__(self, lr: float, epochs: int, ramp_epochs: float, plateau_epochs: int = 2, fixed: bool = False):
        self.lr = lr
        self.epochs = epochs
        self.ramp_epochs = ramp_epochs
        self.plateau_epochs = plateau_epochs
        self.milestones = [round(share * epochs) for share in MILESTONES] if fixed else None
        self.epoch = 0
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.bad = 0
        self.stopped = False

    def ramp(self, epochs_done: float) -> float:
        """eps/eps_final after `epochs_done` epochs, a fraction inside an epoch (paper, end of section 5)."""
        return 1.0 if epochs_done >= self.ramp_epochs else epochs_done / self.ramp_epochs

    def update(self, accuracy: float, usable: bool = True) -> bool:
        """Count the epoch that has just ended; whether it is the best so far. The next epoch uses `self.lr`.

        usable: False for a network that must not be the best one (it has overfitted catastrophically)."""
        self.epoch += 1
        if self.milestones:
            self.lr /= MILESTONE_FACTOR ** self.milestones.count(self.epoch)
        if self.epoch <= self.ramp_epochs:
            return False
        if usable and (self.best is None or accuracy > self.best):
            self.best, self.best_epoch, self.bad = accuracy, self.epoch, 0
            return True
        self.bad += 1
        if self.bad % self.plateau_epochs == 0 and not self.milestones:
            self.lr /= FACTOR
        return False

    def rewind(self, state: dict) -> None:
        """Learning rate and count of bad epochs as they were at `state`; the epochs go on counting."""
        self.lr, self.bad = state["lr"], state["bad"]

    @property
    def finished(self) -> bool:
        return self.stopped or self.epoch >= self.epochs or (self.bad >= STOP_AFTER and not self.milestones)

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("lr", "epoch", "best", "best_epoch", "bad", "stopped")}

    def load_state_dict(self, state: dict) -> None:
        for name in self.state_dict():
            setattr(self, name, state.get(name, getattr(self, name)))

    def forget_best(self) -> None:
        """The best network is lost: the best of the epochs to come takes its place."""
        self.best = self.best_epoch = None
