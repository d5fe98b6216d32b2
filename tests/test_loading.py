"""af.load of state dicts that others wrote."""

import os
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import atlas_fast as af
from atlas_fast import models
from atlas_fast.errors import UserError

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network():
    """With running statistics that are not the initial ones."""
    torch.manual_seed(5)
    return settled(models.wide_resnet(10, 1))


def settled(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 2)
    return model.eval()


def plain(state):
    return state


def prefixed(*prefixes):
    return lambda state: {"".join(prefixes) + name: value for name, value in state.items()}


@pytest.mark.parametrize("change", [plain, prefixed("module."), prefixed("model."), prefixed("module.", "model."),
                                    lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model_state_dict": s},
                                    lambda s: {"state_dict": prefixed("module.")(s), "best": 0.5},
                                    lambda s: OrderedDict(s)])
def test_a_state_dict_in_its_usual_wrappings(change, tmp_path):
    wanted = network()
    torch.save(change(wanted.state_dict()), tmp_path / "w.pt")
    model = af.load(tmp_path / "w.pt", model="wrn-10-1", num_classes=10)
    assert not model.training and torch.equal(model(X), wanted(X))


def test_safetensors_and_a_module_that_is_filled(tmp_path):
    from safetensors.torch import save_file

    wanted, given = network(), models.wide_resnet(10, 1)
    save_file(prefixed("module.")(wanted.state_dict()), tmp_path / "w.safetensors")
    assert af.load(str(tmp_path / "w.safetensors"), model=given) is given
    assert torch.equal(given(X), wanted(X))


def test_a_prefix_that_is_the_models_own_stays(tmp_path):
    wanted = nn.Sequential(OrderedDict(model=nn.Flatten(), module=nn.Linear(3072, 4))).eval()
    given = nn.Sequential(OrderedDict(model=nn.Flatten(), module=nn.Linear(3072, 4)))
    torch.save(wanted.state_dict(), tmp_path / "w.pth")
    assert torch.equal(af.load(tmp_path / "w.pth", model=given)(X), wanted(X))


def test_torchvisions_file(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(1)
    wanted = settled(torchvision.models.resnet18(num_classes=6))
    torch.save(wanted.state_dict(), tmp_path / "resnet18.pth")
    model = af.load(tmp_path / "resnet18.pth", model="torchvision:resnet18", num_classes=6)
    assert torch.equal(model(X), wanted(X))


@pytest.mark.parametrize("mean, std, prefix", [("mu", "sigma", ""), ("normalize.mean", "normalize.std", "model."),
                                               ("module.mu", "module.sigma", "module.")])
def test_a_normalisation_becomes_the_first_layer(mean, std, prefix, tmp_path):
    m, s = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    wanted = network()
    torch.save({mean: m, std: s, **prefixed(prefix)(wanted.state_dict())}, tmp_path / "w.pt")
    torch.testing.assert_close(af.load(tmp_path / "w.pt", model="wrn-10-1")(X), wanted((X - m) / s), rtol=0, atol=0)
    normalized = models.wide_resnet(10, 1, normalize=((0.0,) * 3, (1.0,) * 3))
    if mean == "normalize.mean":  # a model that has its own takes the values
        torch.save({mean: m, std: s, **wanted.state_dict()}, tmp_path / "w.pt")
        assert af.load(tmp_path / "w.pt", model=normalized) is normalized
        torch.testing.assert_close(normalized(X), wanted((X - m) / s), rtol=0, atol=0)


def test_a_normalisation_that_cannot_be_is_refused(tmp_path):
    torch.save({"mu": torch.zeros(3), "sigma": torch.zeros(3), **network().state_dict()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="mu and sigma are no means"):
        af.load(tmp_path / "w.pt", model="wrn-10-1")


def trades_forward(state, x, blocks):
    """The wide ResNet of Zhang et al. 2019b from its weights by their names."""
    def norm(name, x):
        p = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *p))

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for g in (1, 2, 3):
        for b in range(blocks):
            name, stride = f"block{g}.layer.{b}", 2 if g > 1 and b == 0 else 1
            activated = norm(f"{name}.bn1", x)
            out = norm(f"{name}.bn2", F.conv2d(activated, state[f"{name}.conv1.weight"], stride=stride, padding=1))
            out = F.conv2d(out, state[f"{name}.conv2.weight"], padding=1)
            shortcut = state.get(f"{name}.convShortcut.weight")
            x = out + (x if shortcut is None else F.conv2d(activated, shortcut, stride=stride))
    return F.linear(F.avg_pool2d(norm("bn1", x), 8).flatten(1), state["fc.weight"], state["fc.bias"])


def trades_state(depth, width):
    """Random weights by the names of TRADES' code, with the sub_block1 that it holds and never runs."""
    generator, state, n, c = torch.Generator().manual_seed(2), {}, (depth - 4) // 6, [16, 16 * width]
    c += [2 * c[1], 4 * c[1]]

    def conv(name, out, inside, size=3):
        state[f"{name}.weight"] = torch.randn(out, inside, size, size, generator=generator) / (inside * size**2) ** 0.5

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 16, 3)
    for part, g in (("block1", 1), ("sub_block1", 1), ("block2", 2), ("block3", 3)):
        for b in range(n):
            name, inside = f"{part}.layer.{b}", c[g - 1] if b == 0 else c[g]
            norm(f"{name}.bn1", inside)
            conv(f"{name}.conv1", c[g], inside)
            norm(f"{name}.bn2", c[g])
            conv(f"{name}.conv2", c[g], c[g])
            if inside != c[g]:
                conv(f"{name}.convShortcut", c[g], inside, 1)
    norm("bn1", c[3])
    state["fc.weight"], state["fc.bias"] = (torch.randn(10, *rest, generator=generator) for rest in ((c[3],), ()))
    return state


def test_a_wide_resnet_by_the_names_of_trades_and_robustbench(tmp_path):
    state = trades_state(16, 2)
    torch.save({"state_dict": prefixed("module.")(state)}, tmp_path / "w.pt")
    logits = af.load(tmp_path / "w.pt", model="wrn-16-2")(X)
    torch.testing.assert_close(logits, trades_forward(state, X, 2), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="another network"):
        af.load(tmp_path / "w.pt", model="wrn-10-2")


class Creates:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [
    lambda value, path: torch.save(value, path), lambda value, path: path.write_bytes(pickle.dumps(value)),
    lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False)])
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"state_dict": {"fc.weight": bad}}])
def test_a_malicious_pickle_is_refused(write, wrap, tmp_path):
    write(wrap(Creates(tmp_path / "harm")), tmp_path / "w.pt")
    with pytest.raises(UserError, match="w.pt holds more than tensors"):
        af.load(tmp_path / "w.pt", model="wrn-10-1")
    assert not (tmp_path / "harm").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"save the model's state_dict\(\)"):
        af.load(tmp_path / "w.pt", model="wrn-10-1")


@pytest.mark.parametrize("change, sentence", [
    (lambda s: {k: v for k, v in s.items() if k != "fc.bias"}, "1 missing (fc.bias)"),
    (lambda s: {**s, "head.weight": torch.zeros(1)}, "1 unknown (head.weight)"),
    (lambda s: {**s, "fc.weight": torch.zeros(100, 64)}, "fc.weight [100, 64] instead of [10, 64]"),
    (lambda s: {f"net.{k}": v for k, v in s.items()}, "unknown (net.conv.weight, net.groups.0.bn1.weight, "),
    (lambda s: {}, "holds no state dict"), (lambda s: [1, 2], "holds no state dict"),
    (lambda s: {"epoch": 3}, "holds no state dict"), (lambda s: {1: torch.zeros(1)}, "holds no state dict"),
    (lambda s: torch.zeros(3), "holds no state dict")])
def test_other_weights_are_refused_in_a_sentence(change, sentence, tmp_path):
    torch.save(change(network().state_dict()), tmp_path / "w.pt")
    with pytest.raises(UserError) as error:
        af.load(tmp_path / "w.pt", model="wrn-10-1")
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_damaged_files_are_refused(name, tmp_path):
    from safetensors.torch import save_file

    path, state = tmp_path / name, network().state_dict()
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    whole = path.read_bytes()
    for data in (b"", b"\x80", b"weights", whole[:100], whole[:len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=name):
            af.load(path, model="wrn-10-1")


def test_wrong_use(tmp_path):
    torch.save(network().state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="say of which network"):
        af.load(tmp_path / "w.pt")
    with pytest.raises(UserError, match="is a folder: leave model away"):
        af.load(tmp_path, model="wrn-10-1")
    with pytest.raises(UserError, match="there is no file"):
        af.load(tmp_path / "nowhere.pt", model="wrn-10-1")
