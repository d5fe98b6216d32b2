import numpy as np
import pytest
import torch
from torch import nn

from atlas_fast import train
from atlas_fast.data import to_float
from atlas_fast.data.digits import load_digits
from atlas_fast.training import curves


@pytest.fixture(scope="session")
def digits_model():
    """(small network that classifies and is not robust, test images float [N, 1, 8, 8], labels)."""
    data = load_digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = to_float(data.train_images), data.train_labels
    for _ in range(4):
        for start in range(0, len(y), 64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[start:start + 64]), y[start:start + 64]).backward()
            optimizer.step()
    return model.eval(), to_float(data.test_images), data.test_labels


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """A run of a few batches on two classes, dark and bright 8x8 images; 30 test images sorted by class."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)

    def part(labels):
        images = 60 + 120 * labels[:, None, None] + rng.integers(-50, 50, (len(labels), 8, 8))
        return images.astype(np.uint8), labels

    train_images, train_labels = part(np.arange(100) % 2)
    test_images, test_labels = part(np.arange(30) // 15)
    np.savez(folder / "data.npz", train_images=train_images, train_labels=train_labels, test_images=test_images,
             test_labels=test_labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda *arguments: None)
        train.main(["--dataset", "npz", "--data-dir", str(folder / "data.npz"), "--model", "small_cnn",
                    "--epsilon", "0.1", "--batch-size", "20", "--epochs", "6", "--device", "cpu",
                    "--method", "plain", "--lr", "0.03", "--out", str(folder / "run")])
    return folder / "run"
