"""FastNetwork against the model through PyTorch: logits, gradients, what falls back, graphs, bfloat16."""

import contextlib
import copy
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from comparing import family, images, stirred
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_fast import models, ops
from atlas_fast.attacks import PGD, MultiTargeted, Network, Untargeted
from atlas_fast.engine import FastNetwork
from atlas_fast.engine.capture import WARM_UP, CudaRecorder
from atlas_fast.engine.inference import SweepPasses
from atlas_fast.engine.recorded_passes import KEPT, RecordedPasses
from atlas_fast.engine.rules import BatchNorm
from atlas_fast.errors import UserError


def cotangent(logits):
    return torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype, device=logits.device).view_as(logits).cos()


def assert_same(model, x, tolerance=1e-10):
    """float64: logits, pair of logits and gradient, layout; the model stays as it was."""
    model.eval()
    state = copy.deepcopy(model.state_dict())
    fast, plain = FastNetwork(model), Network(model)
    assert fast.engine == "sweeps" and fast.engine_reason is None and fast.exact
    expected, gradient = plain.gradient(x, cotangent)
    logits, own = fast.gradient(x, cotangent)
    for value, reference in ((logits, expected), (fast.logits(x), expected), (own, gradient)):
        assert (value - reference).norm() <= tolerance * reference.norm() and value.shape == reference.shape
    assert own.stride() == x.stride() and own.dtype == x.dtype and gradient.norm() > 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    return fast


def norms_left(fast):
    return sum(isinstance(step.rule, BatchNorm) for step in fast.passes._network.steps)


def test_small_cnn_and_wide_resnet():
    for name in ("small_cnn", "wide_resnet"):
        model, x, _ = family(name)
        fast = assert_same(model, x)
        assert_same(model, x.contiguous(memory_format=torch.channels_last))
    # Two in each of 3 blocks and one at the end: those stay whose input is a sum, or the start of the first block,
    # which goes on as its identity.
    assert norms_left(fast) == 4


@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
def test_torchvision(block):
    resnet = pytest.importorskip("torchvision").models.resnet
    torch.manual_seed(0)
    options = {"width_per_group": 16} if block == "Bottleneck" else {}
    model = stirred(resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=5, **options))
    assert norms_left(assert_same(model, images(size=32, count=2)[0])) == 0


def net(*layers, features):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(features, 5))


class TwoUsers(nn.Module):
    """The convolution's output is used beside the BatchNorm, and one BatchNorm is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 5)

    def forward(self, x):
        h = self.conv(x)
        return self.fc(torch.flatten(self.bn(h) + h, 1))


class Written(nn.Module):
    def __init__(self, function, channels=4):
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.fc, self.fc2, self.write = nn.Linear(64 * channels, 5), nn.Linear(64 * channels, 5), function

    def forward(self, x):
        return self.write(self, x)


NETS = {
    "bias": (lambda: net(nn.BatchNorm2d(4), nn.ReLU(), features=256), 0),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
                                      nn.Conv2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6, eps=0.1), nn.Flatten(),
                                      nn.Linear(24, 5)), 0),
    "no affine": (lambda: net(nn.BatchNorm2d(4, affine=False), features=256), 0),
    "two users": (TwoUsers, 1),
    "first": (lambda: nn.Sequential(nn.BatchNorm2d(3), net(nn.ReLU(), features=256)), 1),
    "twice": (lambda: net(nn.BatchNorm2d(4), nn.BatchNorm2d(4), features=256), 0),
    "after a pool": (lambda: net(nn.MaxPool2d(2), nn.BatchNorm2d(4), features=64), 1),
    "batch statistics": (lambda: net(nn.BatchNorm2d(4, track_running_stats=False), features=256), 1),
    "one channel, pools": (lambda: net(nn.Conv2d(4, 1, 1), nn.ReLU(), nn.Conv2d(1, 6, 3), nn.AvgPool2d(2),
                                       nn.Dropout(), features=54), 0),
    "as in vgg": (lambda: net(nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((3, 2)),
                              features=24), 0),
    "function": (lambda: Written(lambda m, x: m.fc(torch.flatten(F.relu(m.conv2(F.relu(m.conv(x)))), 1))), 0),
    "view": (lambda: Written(lambda m, x: m.fc(m.conv(x).relu().view(x.size(0), -1))), 0),
    "flat twice": (lambda: Written(lambda m, x: m.fc(flat := m.conv(x).flatten(1)) + m.fc2(flat)), 0),
    "sum": (lambda: Written(lambda m, x: m.fc((m.conv2(h := m.conv(x)) + h).flatten(1))), 0),
    "images": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5)), 0),
}


@pytest.mark.parametrize("name", NETS)
def test_folding(name):
    make, left = NETS[name]
    torch.manual_seed(0)
    assert norms_left(assert_same(stirred(make()), images()[0])) == left


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(192, 5)

    def forward(self, x):
        return self.fc(self.bn(self.conv(self.bn(self.conv(x)))).flatten(1))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 5)

    def forward(self, x):
        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(-x.flatten(1))


def with_hook():
    """On a container, which tracing dissolves."""
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(144, 5))
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    return model


class OwnNoise(Branches):
    def forward(self, x):
        return self.fc((x + 0 * torch.rand(1, 3, 8, 8)).flatten(1))  # drawn once if it were a constant


@pytest.mark.parametrize(("make", "why"), [
    (OwnNoise, "makes a tensor that torch.fx would take for a constant"),
    (with_hook, "has a hook"), (Shared, "used twice"), (Branches, "torch.fx cannot trace"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh()), "Tanh"),
])
def test_models_without_rules_fall_back(make, why):
    torch.manual_seed(0)
    model, (x, _) = stirred(make()).eval(), images()
    fast = FastNetwork(model)
    assert fast.engine == "autograd" and why in fast.engine_reason
    for own, reference in zip(fast.gradient(x, cotangent), Network(model).gradient(x, cotangent), strict=True):
        assert torch.equal(own, reference)


def test_other_callables_and_training_mode_fall_back():
    model, x, _ = family("wide_resnet")
    fast = FastNetwork(model.train())
    assert fast.engine_reason == "the model is not in eval mode"
    model.eval()
    fast = FastNetwork(lambda images: model(images))
    assert "is not a torch.nn.Module" in fast.engine_reason
    assert torch.equal(fast.logits(x), model(x))
    with pytest.raises(UserError, match="takes a model"):
        FastNetwork(fast)


def test_float32_is_as_accurate_as_pytorch():
    for name in ("small_cnn", "wide_resnet"):
        model, x, _ = family(name)
        exact = Network(model.eval()).gradient(x, cotangent)
        model, x = model.float(), x.float()
        plain, fast = (n.gradient(x, cotangent) for n in (Network(model), FastNetwork(model)))
        for i, factor in ((0, 2), (1, 3)):  # values twice, gradients three times the error of plain PyTorch
            error, allowed = ((r[i].double() - exact[i]).norm() / exact[i].norm() for r in (fast, plain))
            assert error <= factor * allowed + 1e-7


def test_it_is_the_model_as_it_was():
    model, x, _ = family("wide_resnet")
    fast = FastNetwork(model.eval())
    before = fast.logits(x)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
        model.bn.running_var.mul_(3)
    assert torch.equal(fast.logits(x), before) and not torch.allclose(model(x), before)


def test_wrong_outputs_are_refused():
    fast = FastNetwork(nn.Conv2d(3, 4, 3).double().eval())
    for call in (lambda x: fast.logits(x), lambda x: fast.gradient(x, cotangent)):
        with pytest.raises(UserError, match="must return logits"):
            call(images()[0])


@pytest.mark.parametrize("name", ["small_cnn", "wide_resnet"])
@pytest.mark.parametrize("attack", [PGD(0.05, steps=4, any_step=True), Untargeted(0.05, 0.01, 4, 2),
                                    MultiTargeted(0.05, 0.01, 3, 2), PGD(0.5, steps=3, norm="L2", restarts=2)])
def test_attacks_are_the_same(attack, name):
    model, x, y = family(name)
    x_adv = attack(model.eval(), x, y, rng=ops.make_rng(1))
    own = attack(FastNetwork(model), x, y, rng=ops.make_rng(1))
    torch.testing.assert_close(own, x_adv, rtol=0, atol=1e-9)


def test_bfloat16_gradients_and_full_logits():
    model, x, y = family("wide_resnet")
    model, x = model.float().eval(), x.float()
    fast, plain = FastNetwork(model, bf16=True), Network(model)
    logits, gradient = fast.gradient(x, cotangent)
    expected, reference = plain.gradient(x, cotangent)
    assert not fast.exact and logits.dtype == gradient.dtype == torch.float32
    assert 1e-5 < (logits - expected).norm() / expected.norm() < 0.05
    assert 1e-5 < (gradient - reference).norm() / reference.norm() < 0.2
    torch.testing.assert_close(fast.logits(x), expected, rtol=1e-5, atol=1e-5)
    y = expected.argmax(1)
    x_adv = Untargeted(0.1, 0.02, 8, 2)(fast, x, y)
    assert (model(x_adv).argmax(1) != y).any()
    with pytest.raises(UserError, match="float32"):
        FastNetwork(family("small_cnn")[0].eval(), bf16=True)


def test_bfloat16_falls_back_to_autocast():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh()).eval()
    fast, x = FastNetwork(model, bf16=True), images()[0].float()
    logits, gradient = fast.gradient(x, cotangent)
    assert not fast.exact and logits.dtype == gradient.dtype == torch.float32
    assert 1e-5 < (logits - model(x)).norm() / logits.norm() < 0.05


class Recorder:
    """Like CudaRecorder with shared memory: a replay computes on the recorded tensors, and every result is written over
    by the next replay."""

    def __init__(self, fails=False):
        self.recordings, self.replays, self.fails, self._last = 0, 0, fails, None

    def run(self, function, *tensors):
        return function(*tensors)

    def record(self, function, *tensors):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.recordings += 1

        def replay():
            self.replays += 1
            if self._last is not None:
                self._last.fill_(torch.nan)
            self._last = function(*tensors).clone()
            return self._last

        return replay


def recorded(model, recorder):
    return Network(model, RecordedPasses(SweepPasses(model), recorder))


@pytest.mark.parametrize("name", ["small_cnn", "wide_resnet"])
def test_replays_are_passes(name):
    model, x, _ = family(name)
    plain, recorder = Network(model.eval()), Recorder()
    network, kept = recorded(model, recorder), []
    for i in range(WARM_UP + 3):
        for size in (4, 2):
            batch = (x[:size] + 0.01 * i).clamp(0, 1)
            given = batch.clone()
            kept.append((*network.gradient(batch, cotangent), network.logits(batch)))
            expected = plain.gradient(batch, cotangent)
            for own, reference in zip(kept[-1], (*expected, expected[0]), strict=True):
                torch.testing.assert_close(own, reference, rtol=1e-9, atol=1e-12)
            assert torch.equal(batch, given)
    assert recorder.recordings == 6 and recorder.replays > 6  # two shapes: forward, backward, and logits alone
    assert all(torch.isfinite(value).all() for results in kept for value in results)  # none was shared memory


def test_attacks_by_replays_are_the_same():
    model, x, y = family("small_cnn")
    x, y, recorder = torch.rand(40, 1, 8, 8, dtype=torch.float64), torch.arange(40) % 5, Recorder()
    y = model.eval()(x).argmax(1)
    for attack in (PGD(0.05, steps=7), Untargeted(0.05, 0.01, 9, 3), MultiTargeted(0.05, 0.01, 9, 2)):
        x_adv = attack(recorded(model, recorder), x, y, rng=ops.make_rng(1))
        torch.testing.assert_close(x_adv, attack(model, x, y, rng=ops.make_rng(1)), rtol=0, atol=1e-9)
        assert (model(x_adv).argmax(1) != y).any()
    assert recorder.replays > 10


def test_a_recording_that_fails_is_said_once():
    model, x, _ = family("small_cnn")
    network, plain = recorded(model.eval(), Recorder(fails=True)), Network(model)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(WARM_UP + 3):
            torch.testing.assert_close(network.logits(x), plain.logits(x))
            network.gradient(x, cotangent)
    said = [str(w.message) for w in seen if "CUDA graph" in str(w.message)]
    assert said == ["atlas_fast runs without CUDA graphs, since the passes cannot be captured: operation not permitted "
                    "when stream is capturing"]
    assert network.passes.reason in said[0]


def test_few_recordings_are_kept():
    model, recorder = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), Recorder()
    network = recorded(model, recorder)
    for size in range(1, KEPT + 3):
        for _ in range(WARM_UP + 1):
            network.logits(torch.rand(size, 1, 2, 2))
    assert recorder.recordings == KEPT + 2 and len(network.passes._recorded) == KEPT
    network.logits(torch.rand(KEPT, 1, 2, 2))
    assert recorder.recordings == KEPT + 2  # still there
    network.logits(torch.rand(1, 1, 2, 2))
    assert recorder.recordings == KEPT + 3


def test_inside_of_autocast_is_another_recording():
    model, recorder = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), Recorder()
    network, x = recorded(model, recorder), torch.rand(2, 1, 2, 2)
    for _ in range(WARM_UP + 1):
        network.logits(x)
        with torch.autocast("cpu", torch.bfloat16):
            network.logits(x)
    assert recorder.recordings == 2 and len(network.passes._recorded) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [lambda: models.small_cnn(5, 3, 8), lambda: models.wide_resnet(10, 1, 5),
                                  lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Tanh())])
def test_on_a_gpu(make):
    """Graphs of both engines, shapes in turn, against PyTorch in float64 on the CPU."""
    torch.manual_seed(0)
    exact = stirred(make()).eval()
    fast, plain = FastNetwork(copy.deepcopy(exact).cuda()), Network(exact)
    for _ in range(WARM_UP + 3):
        for size in (4, 3):
            x = torch.rand(size, 3, 8, 8, dtype=torch.float64)
            for own, reference in zip(fast.gradient(x.cuda(), cotangent), plain.gradient(x, cotangent), strict=True):
                torch.testing.assert_close(own.cpu(), reference, rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(fast.logits(x.cuda()).cpu(), plain.logits(x), rtol=1e-9, atol=1e-10)
    assert fast.passes.reason is None and len(fast.passes._recorded) == 4


def test_a_graph_casts_the_weights_itself(monkeypatch):
    """Inside of a caller's autocast, casts from before the recording would be gone when the graph is replayed."""
    stream = types.SimpleNamespace(device=torch.device("cpu"), wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: types.SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **kwargs: contextlib.nullcontext())
    weight, x, casts = torch.rand(3, 3, requires_grad=True), torch.rand(2, 3), []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            casts.extend(["weight"] if args and args[0] is weight and "_to_copy" in str(function) else [])
            return function(*args, **(kwargs or {}))

    def logits(images):
        return torch.nn.functional.linear(images, weight)

    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16), Casts():
        logits(x)
        logits(x)
        assert casts == ["weight"]  # PyTorch keeps it
        CudaRecorder(torch.device("cpu")).record(logits, x)
        assert casts == ["weight"] * 2
        logits(x)
    assert casts == ["weight"] * 3
