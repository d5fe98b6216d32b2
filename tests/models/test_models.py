import pytest
import torch

from atlas_fast import models
from atlas_fast.errors import UserError


@pytest.mark.parametrize("name, channels, size", [
    ("small_cnn", 1, 28), ("small_cnn", 1, 8), ("small_cnn", 3, 32), ("wrn-10-1", 3, 32), ("wrn-16-2", 1, 28),
    ("preact_resnet18", 3, 32)])
def test_logits_shape_and_tracing(name, channels, size):
    model = models.create(name, 7, channels, size).eval()
    x = torch.rand(2, channels, size, size)
    logits = model(x)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), logits, rtol=0, atol=0)


def test_seed_fixes_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in models.create("wrn-10-1", 10).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_wide_resnet_28_8_has_the_published_size():
    # Zagoruyko & Komodakis 2016, table 5: WRN-28-10 has 36.5M parameters; 28-8 has 23.4M.
    with torch.device("meta"):
        count = {w: sum(p.numel() for p in models.wide_resnet(28, w).parameters()) for w in (8, 10)}
    assert round(count[10] / 1e6, 1) == 36.5
    assert round(count[8] / 1e6, 1) == 23.4


def test_he_initialisation_keeps_the_scale():
    torch.manual_seed(0)
    conv = models.wide_resnet(10, 4).groups[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert models.small_cnn().fc1.bias.abs().max() == 0


def test_small_cnn_is_the_documented_one():
    model = models.small_cnn()
    assert sum(p.numel() for p in model.parameters()) == 436_202
    kinds = [type(m).__name__ for m in model.children()]
    assert kinds.count("Conv2d") == 2 and kinds.count("Linear") == 2


@pytest.mark.parametrize("name", ["small_cnn", "wrn-10-1", "preact_resnet18"])
def test_normalize_is_the_first_layer(name):
    torch.manual_seed(0)
    plain = models.create(name, 10, 3, 16).eval()
    torch.manual_seed(0)
    normalized = models.create(name, 10, 3, 16, normalize=((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))).eval()
    x = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(normalized(x), plain((x - mean) / std))
    torch.fx.symbolic_trace(normalized)


@pytest.mark.parametrize("name", ["resnet50", "wrn-27-8", "wrn-4-1", "wrn-28-0", "wrn-28", ""])
def test_unknown_models_are_refused(name):
    with pytest.raises(UserError):
        models.create(name, 10)


def test_images_too_small_are_refused():
    with pytest.raises(UserError, match="4x4"):
        models.small_cnn(image_size=3)
