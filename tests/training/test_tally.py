"""Steps that are not finite: skipped, counted, left out of the means; a run of them ends the training."""

import json
import math

import pytest
import torch

from atlas_fast import train
from atlas_fast.engine import TrainingStep
from atlas_fast.errors import UserError
from atlas_fast.training import checkpoint
from atlas_fast.training.tally import EVERY, IN_A_ROW, Tally

NAN, INF = float("nan"), float("inf")


def feed(tally, losses, epoch=1, skipped=(), steps=None):
    """An epoch of a Tally; losses: of each step; skipped: positions whose gradient alone is not finite."""
    counter = torch.zeros((), dtype=torch.int64)
    tally.start(epoch, steps or len(losses), counter)
    said = 0
    for i, loss in enumerate(losses):
        counter += not math.isfinite(loss) or i in skipped
        said += tally.add({"loss": torch.tensor(loss), "kl": torch.tensor(2 * loss)}, counter)
    means, say = tally.means()
    return means, said + say


@pytest.mark.parametrize("n", [1, 30, EVERY, EVERY + 1, 3 * EVERY])
def test_means_leave_out_what_was_not_finite(n):
    losses = torch.rand(n, generator=torch.Generator().manual_seed(n)).tolist()
    tally = Tally()
    means, said = feed(tally, losses)
    assert means == pytest.approx({"loss": sum(losses) / n, "kl": 2 * sum(losses) / n}, rel=1e-6)
    assert (tally.bad, tally.total, said) == (0, 0, 0)
    if n >= 30:
        broken = [*losses[:4], NAN, *losses[4:9], INF, *losses[9:]]
        means, said = feed(tally, broken, epoch=2, skipped=(20,))
        rest = losses[:18] + losses[19:]  # step 20 of the broken ones
        assert means == pytest.approx({"loss": sum(rest) / (n - 1), "kl": 2 * sum(rest) / (n - 1)}, rel=1e-6)
        assert (tally.bad, tally.total, said) == (3, 3, 1)  # said once in the run
        assert tally.sentence == "batch 5 of epoch 2 (term: kl) was not finite; such steps are skipped and counted"
        assert feed(tally, broken, epoch=3)[1] == 0 and tally.bad == 2 and tally.total == 5


def test_twenty_in_a_row_end_the_training_over_epochs_too():
    tally = Tally()
    feed(tally, [1.0] * 991 + [NAN] * 9)
    feed(tally, [NAN] * (IN_A_ROW - 10) + [1.0] * 990, epoch=2)
    assert tally.in_a_row == 0 and tally.total == IN_A_ROW - 1
    feed(tally, [1.0] * 991 + [NAN] * 9, epoch=3)
    resumed = Tally()
    resumed.load_state_dict(json.loads(json.dumps(tally.state_dict())))
    for one in (tally, resumed):
        with pytest.raises(UserError, match=r"20 steps in a row were not finite, the first at batch 992 of epoch 3 "
                                            r"\(term: kl\)"):
            feed(one, [NAN] * (IN_A_ROW - 9) + [1.0] * 900, epoch=4)


def test_more_than_a_tenth_of_an_epoch_ends_the_training():
    scattered = ([1.0] * 4 + [NAN] + [1.0] * 5) * 20
    feed(Tally(), scattered)
    scattered[1] = INF
    with pytest.raises(UserError, match=r"21 of the 200 steps of epoch 7 were not finite, the first at batch 2"):
        feed(Tally(), scattered, epoch=7)


def test_short_epochs():
    means, _ = feed(Tally(), [NAN, 3.0])
    assert means == {"loss": 3.0, "kl": 6.0}
    with pytest.raises(UserError, match="2 of the 3 steps of epoch 1 were not finite, the first at batch 1"):
        feed(Tally(), [NAN, 3.0, NAN])
    with pytest.raises(UserError, match="2 of the 2 steps of epoch 1 were not finite, the first at batch 1"):
        feed(Tally(), [NAN, NAN])
    with pytest.raises(UserError, match=r"the first at batch 1 of epoch 1 \(term: a gradient\)"):
        feed(Tally(), [1.0], skipped=(0,))


def break_steps(monkeypatch, chosen):
    """The images of these steps of the run (0, 1, ...) get a NaN."""
    original, calls = TrainingStep.__call__, []

    def broken(self, x, y):
        calls.append(1)
        if len(calls) - 1 in chosen:
            x = x.float() / 255
            x[0, 0, 0, 0] = NAN
        return original(self, x, y)

    monkeypatch.setattr(TrainingStep, "__call__", broken)


def test_a_run_outlives_one_bad_batch(small_run, read_log, monkeypatch, capsys):
    break_steps(monkeypatch, {1, 4})
    folder = small_run("--epochs", "3", "--method", "trades")
    lines = read_log(folder)
    assert [line["not_finite_steps"] for line in lines] == [1, 1, 0]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert json.loads((folder / "summary.json").read_text())["not_finite_steps"] == 2
    assert capsys.readouterr().out.count("such steps are skipped and counted") == 1


def test_a_run_of_bad_batches_ends_with_what_was_saved(small_run, read_log, monkeypatch, tmp_path):
    break_steps(monkeypatch, range(3, 9))
    with pytest.raises(UserError, match=r"3 of the 3 steps of epoch 2 .* first at batch 1 of epoch 2 \(term: ce"):
        small_run("--epochs", "4")
    folder = tmp_path / "run"
    assert len(read_log(folder)) == 1 and checkpoint.load_last(folder / "last.pt")["schedule"]["epoch"] == 1
    monkeypatch.undo()
    assert train.main(["--resume", "--out", str(folder)]) == 0
    assert len(read_log(folder)) == 4


def test_weights_that_are_not_finite_are_not_saved(small_run, monkeypatch, tmp_path):
    """Every loss and gradient was finite, but the update was not."""
    original, calls = TrainingStep.__call__, []

    def broken(self, x, y):
        terms = original(self, x, y)
        calls.append(1)
        if len(calls) == 5:
            list(self.model.parameters())[1].data[0] = INF
        return terms

    monkeypatch.setattr(TrainingStep, "__call__", broken)
    with pytest.raises(UserError, match=r"the weights are not finite after batch 2 of epoch 2 \(first 0.bias\)"):
        small_run("--epochs", "2", "--model", "folders:dropout_net", "--save-minutes", "1e-9")
    state = checkpoint.load_last(tmp_path / "run" / "last.pt")
    assert state["inside"]["batches"] == 1 and all(value.isfinite().all() for value in state["model"].values())
