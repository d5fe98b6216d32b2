"""What the tests of the attacks share: small trained networks on the handwritten digits."""

import pytest
import torch
import torch.nn.functional as F

from atlas_fast import models
from atlas_fast.attacks import FGSM
from atlas_fast.data import load


@pytest.fixture(scope="session")
def digits():
    """(images [N, 1, 8, 8] in [0, 1], labels) of the test set."""
    data = load("digits")
    return data.test_images, data.test_labels


@pytest.fixture(scope="session")
def digits_net():
    """A network with some robustness at eps 0.1 (adversarial training); eval mode. Do not change it."""
    data = load("digits")
    x, y = data.train_images, data.train_labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.small_cnn(in_channels=1, image_size=8, channels=(8, 16), hidden=32)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(4):
            for batch in torch.randperm(len(x)).split(128):
                loss = F.cross_entropy(net(FGSM(0.1)(net, x[batch], y[batch])), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net.eval().requires_grad_(False)
