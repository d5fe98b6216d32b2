"""Files that would run code when they are unpickled: refused by everything that reads files, and nothing runs."""

import io
import os
import pickle
import warnings

import numpy as np
import pytest
import torch

import atlas_fast as af
from atlas_fast import train
from atlas_fast.attacks import PGD, Transfer
from atlas_fast.errors import UserError
from atlas_fast.evaluate import main as evaluate
from atlas_fast.evaluation.parts import Parts
from atlas_fast.training import checkpoint


class Evil:
    """Unpickled, it makes the file ran."""

    def __init__(self, ran):
        self.ran = ran

    def __reduce__(self):
        return open, (str(self.ran), "w")


def torch_archive(evil) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "state_dict": {"weight": torch.ones(2)}, "model": evil}, buffer)
    return buffer.getvalue()


def sealed(evil) -> bytes:
    """With the checksum of a checkpoint."""
    path = evil.ran.with_name("sealed")
    checkpoint.save_last(path, {"model": evil})
    return path.read_bytes()


def array(evil) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, train_images=np.array([evil], dtype=object))
    return buffer.getvalue()


KINDS = {"pickle 0": lambda evil: pickle.dumps(evil, 0), "pickle 2": lambda evil: pickle.dumps(evil, 2),
         "pickle 4": lambda evil: pickle.dumps(evil, 4), "torch.save": torch_archive, "sealed": sealed, "npz": array}
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@pytest.fixture(params=KINDS)
def evil(request, tmp_path):
    """The contents of such a file; at the end it must not have run."""
    ran = tmp_path / "ran"
    yield KINDS[request.param](Evil(ran))
    assert not ran.exists()


def test_they_would_run(tmp_path):
    for i, (name, make) in enumerate(KINDS.items()):
        ran = tmp_path / f"ran {i}"
        content = io.BytesIO(make(Evil(ran)))
        if name == "npz":
            np.load(content, allow_pickle=True)["train_images"]
        else:
            (pickle.load if name.startswith("pickle") else lambda f: torch.load(f, weights_only=False))(content)
        assert ran.exists(), name


@pytest.fixture
def folder(stored_run):
    """A run without best.safetensors, so that the weights are those of last.pt."""
    (stored_run / "best.safetensors").unlink()
    return stored_run


def test_checkpoints(folder, evil):
    (folder / "last.pt").write_bytes(evil)
    for call in (lambda: train.main(["--resume", "--out", str(folder)]), lambda: af.load(folder),
                 lambda: evaluate([str(folder), "--limit", "4"])):
        with pytest.raises(UserError, match="not run|corrupt|another"):
            call()
    (folder / "previous.pt").write_bytes(evil)
    (folder / "last.pt").unlink()
    with pytest.raises(UserError, match="not run|corrupt|another"):
        train.main(["--resume", "--out", str(folder)])


def test_weights(folder, evil, tmp_path, tiny_net):
    for name in ("w.pt", "w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(evil)
        with pytest.raises(UserError):
            af.load(tmp_path / name, model=tiny_net)
    (folder / "best.safetensors").write_bytes(evil)
    with pytest.raises(UserError):
        evaluate([str(folder), "--limit", "4"])
    with pytest.raises(UserError):
        evaluate([str(folder), "--attacks", "transfer-2", "--surrogate", str(folder)])


def test_adversaries_and_batches(evil, tmp_path, tiny_net):
    x, y, rng = torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), af.ops.make_rng(0)
    transfer = Transfer(tiny_net.eval(), PGD(eps=0.1, step_size=0.05, steps=1), tmp_path / "cache")
    wanted = transfer(None, x, y, rng=rng)
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(evil)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(transfer(None, x, y, rng=rng), wanted)
    assert any("are damaged" in str(w.message) for w in caught)
    parts = Parts(tmp_path / "parts", {})
    parts.begin("pgd-2", {})
    (tmp_path / "parts" / "pgd-2" / "0-2.npz").write_bytes(evil)
    with pytest.raises(UserError, match="corrupt|does not hold"):
        parts.load("pgd-2", 0, 2)


def test_data(evil, tmp_path):
    (tmp_path / "my.npz").write_bytes(evil)
    with pytest.raises(UserError, match="cannot be read as a .npz file|lacks train_images"):
        train.main(["--dataset", "npz", "--data-dir", str(tmp_path / "my.npz"), "--out", str(tmp_path / "out")])


def test_data_of_torchvision(evil, tmp_path, monkeypatch):
    """CIFAR's files are pickles and are read after their checksums are right; MNIST had its own .pt files once."""
    torchvision = pytest.importorskip("torchvision")

    def no_network(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", no_network)
    for place in ("cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz", "MNIST/processed/training.pt",
                  "MNIST/processed/test.pt"):
        path = tmp_path / "data" / place
        os.makedirs(path.parent, exist_ok=True)
        path.write_bytes(evil)
    for name in ("cifar10", "mnist"):
        with pytest.raises(UserError, match="could not be downloaded|hold pickled code"):
            train.main(["--dataset", name, "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
