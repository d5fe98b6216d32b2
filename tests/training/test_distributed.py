"""Two processes on CPUs (gloo) do what one does with the same global batch, and end together."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from atlas_fast import train
from atlas_fast.engine.ranks import LOST
from atlas_fast.training import launch
from tests.forked import free_port

HERE = Path(__file__).parent
TRAINING = ("--method", "atlas", "--epochs", "3", "--batch-size", "30", "--epsilon", "0.1", "--alpha", "0.01",
            "--beta", "0.5", "--augment", "crop-flip", "--model", "small_cnn", "--device", "cpu")
pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


def environment(**more):
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def torchrun(*command):
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           *map(str, command)], capture_output=True, text=True, timeout=300, env=environment())


def two(*command):
    """The same without torchrun, which takes as long to start as either of them: (status, stdout, stderr) of each."""
    port = str(free_port())
    started = [subprocess.Popen([sys.executable, str(HERE / "two_ranks.py"), *map(str, command)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(
                                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                                    MASTER_PORT=port)) for rank in range(2)]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in started]
    return [(status, out, err) for out, err, status in ended]


def test_two_processes_step_as_one(small_npz):
    for status, _, err in two("steps", small_npz):
        assert status == 0, err


@pytest.fixture
def one_process(small_npz, tmp_path, read_log):
    """The log and the summary of one process."""
    folder = tmp_path / "one"
    assert train.main(["--dataset", "npz", "--data-dir", str(small_npz), *TRAINING, "--out", str(folder)]) == 0
    return read_log(folder), json.loads((folder / "summary.json").read_text())


def assert_like(log, summary, one_process):
    """Float32: two sums of halves round differently, and so may a sign of the adversary's step."""
    assert [line["epoch"] for line in log] == [1, 2, 3] and summary.keys() == one_process[1].keys()
    for line, expected in zip(log, one_process[0], strict=True):
        assert line.keys() == expected.keys()
        for name in ("lr", "eps", "loss", "ce", "kl", "jacobian", "jacobian_norm", "clean_accuracy"):
            assert line[name] == pytest.approx(expected[name], rel=1e-2, abs=1e-6), name
    assert summary["clean_accuracy"] == one_process[1]["clean_accuracy"] and summary["n"] == 30


def test_a_killed_process_ends_the_run_and_one_resumes_it(small_npz, tmp_path, read_log, one_process):
    folder = tmp_path / "two"
    (status, out, err), (killed, silence, _) = two("die", 3, "--dataset", "npz", "--data-dir", small_npz, *TRAINING,
                                                   "--out", folder)
    assert killed == -signal.SIGKILL and status == 2 and silence == ""
    assert err.splitlines()[-1].startswith(f"atlas_fast: error: {LOST} (") and "Traceback" not in err
    assert [line["epoch"] for line in read_log(folder)] == [1, 2]
    assert out.count("epoch   2/3") == 1 and not (folder / "summary.json").exists()
    assert json.loads((folder / "config.json").read_text())["processes"] == 2
    assert train.main(["--resume", "--out", str(folder)]) == 0
    assert_like(read_log(folder), json.loads((folder / "summary.json").read_text()), one_process)


def test_torchrun_restarts_a_killed_run(small_npz, tmp_path, read_log, one_process):
    folder = tmp_path / "restarted"
    done = torchrun("--max-restarts", 1, HERE / "two_ranks.py", "die", 2, "--dataset", "npz",
                    "--data-dir", small_npz, *TRAINING, "--out", folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(LOST) == 1
    assert done.stdout.count("n = 30") == 1  # the table, by one process
    assert_like(read_log(folder), json.loads((folder / "summary.json").read_text()), one_process)


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with launch.launched() as ranks:
        assert (ranks.size, ranks.group, ranks.leads) == (1, None, True)
    launch.check_device("cuda:0", ranks)
