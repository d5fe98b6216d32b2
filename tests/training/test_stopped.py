"""SIGTERM and Ctrl-C between two steps, in the validation and in the test: saved, and gone on with to the same end."""

import json
import os
import signal

import pytest
from folders import outcome

from atlas_fast import train
from atlas_fast.engine import TrainingStep
from atlas_fast.errors import Interrupted, UserError, run_cli
from atlas_fast.training import lock, loop, saving, stopping, summary
from atlas_fast.training.stopping import Stopping

TINY = ("--model", "folders:dropout_net", "--max-batches", "3", "--epochs", "2", "--ramp-epochs", "1")
METHODS = {"atlas": ("--augment", "crop-flip"), "ema, awp": ("--method", "adv", "--ema", "0.9", "--awp", "0.01"),
           "free": ("--method", "free", "--replays", "2"), "yopo": ("--method", "yopo", "--passes", "2"),
           "fat": ("--method", "fat", "--on-overfitting", "rewind")}


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C is heard as in a terminal: a job in the background may have been started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signal_in(monkeypatch, owner, name, call, which=signal.SIGTERM):
    """The process gets the signal as it begins the call-th call of this function."""
    original, calls = getattr(owner, name), []

    def counted(*arguments, **keywords):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), which)
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def stopped(small_run, monkeypatch):
    """stopped(owner, name, call, which, options): (what was raised, folder) of a run that gets a signal there."""
    def run(owner, name, call, which, *options):
        with monkeypatch.context() as patch:
            signal_in(patch, owner, name, call, which)
            with pytest.raises(Interrupted) as raised:
                small_run(*TINY, *options, out="cut")
        return raised.value, small_run.folder("cut")

    return run


def assert_ends_alike(small_run, folder, *options):
    whole = small_run(*TINY, *options, out="whole")
    assert train.main(["--resume", "--out", str(folder)]) == 0
    wanted, found = outcome(whole), outcome(folder)
    assert [key for key in wanted if wanted[key] != found[key] and key != "config"] == []


@pytest.mark.parametrize("name", METHODS)
def test_stopped_inside_an_epoch(small_run, stopped, name):
    handlers = [signal.getsignal(number) for number in stopping.SIGNALS]
    error, folder = stopped(TrainingStep, "__call__", 5, signal.SIGTERM, *METHODS[name])
    assert str(error) == f"stopped and saved at batch 2 of 3 of epoch 2; --resume --out {folder} goes on from there"
    assert error.status == 143 and handlers == [signal.getsignal(number) for number in stopping.SIGNALS]
    assert_ends_alike(small_run, folder, *METHODS[name])


def test_a_second_ctrl_c_says_what_is_saved(small_run, stopped, monkeypatch):
    asks = saving.Saver.asks

    def again(self, last):
        if self.stopping.asked:  # before it is saved
            os.kill(os.getpid(), signal.SIGINT)
        return asks(self, last)

    monkeypatch.setattr(saving.Saver, "asks", again)
    error, folder = stopped(TrainingStep, "__call__", 4, signal.SIGINT)
    assert str(error) == f"stopped in epoch 2; --resume --out {folder} goes on from the end of epoch 1"
    assert error.status == 130


def test_stopped_in_the_validation(small_run, stopped):
    error, folder = stopped(loop, "measure", 2, signal.SIGINT)
    assert "saved at batch 3 of 3 of epoch 2" in str(error) and error.status == 130
    assert_ends_alike(small_run, folder)


def test_stopped_in_the_test(small_run, stopped):
    error, folder = stopped(summary, "measure", 1, signal.SIGTERM)
    assert "the training is over and saved, but not its test; --resume" in str(error) and error.status == 143
    assert_ends_alike(small_run, folder)


def test_the_exit_status_is_by_the_signal(capsys):
    def main():
        raise Interrupted("stopped and saved", signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        run_cli(main)
    assert end.value.code == 143 and "atlas_fast: stopped and saved" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait():
    with Stopping() as one:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert one.asked == signal.SIGTERM
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    with Stopping(alone=False) as one, one.at_once():  # of several processes: they agree first
        for number in (signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert one.asked == signal.SIGINT


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping() as one:
            os.kill(os.getpid(), signal.SIGINT)
            assert one.asked is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_one_process_a_folder(small_run, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    folder = small_run.folder("run")
    folder.mkdir()
    with lock.locked(folder), pytest.raises(UserError, match="another process is training into .*run at this moment"):
        small_run(*TINY)
    assert list(folder.iterdir()) == []
    small_run(*TINY, "--epochs", "1")
    (folder / "summary.json").unlink()
    with lock.locked(folder), pytest.raises(UserError, match="another process is training into .*run at this moment"):
        train.main(["--resume", "--out", str(folder)])
    assert train.main(["--resume", "--out", str(folder)]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_children_of_a_killed_process_do_not_keep_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    read, write = os.pipe()
    if not (parent := os.fork()):
        try:
            with lock.locked(tmp_path):
                if child := os.fork():
                    os.write(write, str(child).encode())
                signal.pause()
        finally:
            os._exit(1)
    child = int(os.read(read, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    os.kill(child, 0)  # it lives
    with lock.locked(tmp_path):
        os.kill(child, signal.SIGKILL)
    os.close(read)
    os.close(write)


def test_other_settings_are_named(small_run, tmp_path):
    folder = small_run(*TINY, "--epochs", "1", "--alpha", "0.1")
    (folder / "summary.json").unlink()
    settings = json.loads((folder / "config.json").read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**settings, "lr": 0.5, "val_step_size": 0.03, "device": "cpu"}))
    with pytest.raises(UserError, match=r"other settings: lr \(.*, now 0.5\), val_step_size \(.*, now 0.03\)"):
        train.main(["--resume", "--out", str(folder), "--config", str(other)])
    (folder / "config.json").write_text(json.dumps({**settings, "alpha": 0.2}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"last.pt was trained with other settings .* alpha \(0.1, now 0.2\)"):
        train.main(["--resume", "--out", str(folder)])
    (folder / "config.json").write_text(json.dumps({**settings, "data_dir": "moved", "capture": "off"}))
    with pytest.raises(UserError, match="moved"):  # the data's place may be another, but they must be there
        train.main(["--resume", "--out", str(folder)])
    assert before.keys() == {path.name for path in folder.iterdir()}
    with pytest.raises(UserError, match="--save-minutes must be a number above 0, not 0"):
        train.main(["--resume", "--out", str(folder), "--save-minutes", "0"])
