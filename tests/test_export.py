"""python -m atlas_fast.export: a file that another runtime reads, with the same logits."""

import numpy as np
import pytest
import torch
from torch import nn

import atlas_fast as af
from atlas_fast import export, train
from atlas_fast.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(["--device", "cpu", "--epochs", "1", "--max-batches", "2", "--model", "wrn-10-1", "--out", str(folder)])
    return folder


X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_torch_export_of_a_run(run, tmp_path, capsys):
    path = tmp_path / "model.pt2"
    export.main([str(run), "--to", "torch-export", "--out", str(path)])
    assert "images [N,1,8,8] in [0,1] -> logits [N,10]; logits agree to" in capsys.readouterr().out
    again, model = torch.export.load(path).module(), af.load(run)
    for n in (1, 5):
        torch.testing.assert_close(again(X[:n]), model(X[:n]), rtol=1e-5, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_onnx_of_a_run(run, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    export.main([str(run), "--to", "onnx", "--out", str(path)])
    session, model = onnxruntime.InferenceSession(str(path)), af.load(run)
    for n in (1, 5):
        logits = session.run(None, {"images": X[:n].numpy()})[0]
        np.testing.assert_allclose(logits, model(X[:n]).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_onnx_without_its_packages_names_the_command(run, tmp_path, monkeypatch):
    found = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if "onnx" in name else found(name))
    with pytest.raises(UserError, match="needs onnx and onnxscript and onnxruntime: pip install onnx onnxscript"):
        export.main([str(run), "--to", "onnx", "--out", str(tmp_path / "m.onnx")])


def small():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))


def test_the_model_keeps_its_mode(tmp_path):
    model = small().train()
    model[2].eval()
    assert export.export(model, (1, 8, 8), "torch-export", tmp_path / "m.pt2") <= 1e-6
    assert [m.training for m in model.modules()] == [True, True, True, False]


class Depends(nn.Module):
    """Its control flow depends on the values."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(x.flatten(1)) if x.sum() > 0 else x.flatten(1)[:, :3]


@pytest.mark.parametrize("exported, sentence", [
    (lambda x: small()(x), "differ by"), (lambda x: torch.full((len(x), 3), float("nan")), "differ by nan"),
    (lambda x: torch.zeros(len(x), 4), r"gives \[1, 4\]"), (lambda x: [][0], "fails on 1 images .IndexError")])
def test_logits_that_differ_leave_the_file_as_it_was(exported, sentence, tmp_path, monkeypatch):
    path = tmp_path / "m.pt2"
    path.write_text("before")
    monkeypatch.setitem(export.FORMATS, "torch-export",
                        lambda: (lambda model, x, path: path.write_text("new"), lambda path: exported))
    with pytest.raises(UserError, match=sentence):
        export.export(small(), (1, 8, 8), "torch-export", path)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_wrong_use_is_a_sentence(run, tmp_path):
    with pytest.raises(UserError, match="cannot be exported"):
        export.export(Depends(), (1, 8, 8), "torch-export", tmp_path / "m.pt2")
    with pytest.raises(UserError, match="torch-export or onnx, not 'tflite'"):
        export.export(small(), (1, 8, 8), "tflite", tmp_path / "m")
    with pytest.raises(UserError, match="invalid choice"):
        export.main([str(run), "--to", "tflite", "--out", "m"])
    with pytest.raises(UserError, match="a folder that exists"):
        export.main([str(run), "--to", "torch-export", "--out", str(tmp_path / "no" / "m.pt2")])
    with pytest.raises(UserError, match="not the folder of a run"):
        export.main([str(tmp_path), "--to", "torch-export", "--out", str(tmp_path / "m.pt2")])
    assert list(tmp_path.iterdir()) == []
