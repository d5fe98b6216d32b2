"""SweepView against AutogradView in float64: gradients, losses and running statistics, for every rule and preset."""

import copy

import pytest
import torch
import torch.nn.functional as F
from comparing import FAMILIES, assert_same, atlas, family, gradients, images, objective_of, stirred
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_fast import models, objectives, ops
from atlas_fast.engine import ENGINES, SweepView, TrainingStep, graph, program
from atlas_fast.engine.rules import pooling
from atlas_fast.engine.sweep_view import unsupported
from atlas_fast.errors import UserError


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", list(objectives.PRESETS))
def test_every_preset_on_every_model(method, name):
    model, x, y = family(name)
    for steps in (1, 3) if "steps" in objectives.parameters(method) else (0,):
        assert_same(model, objective_of(method, steps=steps, num_projections=1), x, y)


@pytest.mark.parametrize("method", ["atlas", "tradesjac"])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
@pytest.mark.parametrize("training", [True, False])
def test_modes_of_batch_norm_and_several_projections(training, bn_mode, method):
    model, x, y = family("wide_resnet")
    assert_same(model.train(training), objective_of(method, num_projections=3, steps=2), x, y, bn_mode)


@pytest.mark.parametrize("method", ["atlas", "tradesjac"])
def test_preact_resnet18(method):
    torch.manual_seed(0)
    assert_same(stirred(models.preact_resnet18(5)), objective_of(method), *images(count=2))


def test_a_resnet_of_torchvision():
    resnet = pytest.importorskip("torchvision").models.resnet
    torch.manual_seed(0)
    net = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=5, width_per_group=16)
    assert_same(stirred(net), atlas(), *images(size=16))


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_torchvision_models_are_supported(name):
    torchvision = pytest.importorskip("torchvision")
    model = getattr(torchvision.models, name)(num_classes=5)
    assert unsupported(model.eval()) is None
    assert (unsupported(model.train()) is None) == (name == "resnet18")  # vgg's dropout


def sequential(*layers, features):
    """The layers after a convolution of 3 into 4 channels at 8x8, and a linear layer to 5 logits."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(features, 5))


LAYERS = {
    "convolution": lambda: sequential(nn.ReLU(), nn.Conv2d(4, 6, 3), features=216),
    "strided convolution": lambda: sequential(nn.ReLU(), nn.Conv2d(4, 6, 3, 2, padding=1, bias=False), features=96),
    "phases": lambda: sequential(nn.ReLU(), nn.Conv2d(4, 6, (5, 2), stride=(3, 2), padding=(2, 1)), features=90),
    "phases with unused pixels": lambda: sequential(nn.ReLU(), nn.Conv2d(4, 6, 2, stride=3), features=54),
    "1x1, stride 2": lambda: sequential(nn.ReLU(), nn.Conv2d(4, 6, 1, stride=2), features=96),
    "many channels": lambda: sequential(nn.Conv2d(4, 17, 1), nn.ReLU(), nn.Conv2d(17, 2, 4, 2, 1), features=32),
    "dilated, grouped": lambda: sequential(nn.ReLU(), nn.Conv2d(4, 8, 3, dilation=2, groups=2, stride=2), features=32),
    "one channel": lambda: sequential(nn.Conv2d(4, 1, 1), nn.ReLU(), nn.Conv2d(1, 3, (3, 2), stride=(1, 2), dilation=2,
                                                                               padding=1), features=72),
    "batch norm": lambda: sequential(nn.BatchNorm2d(4), features=256),
    "batch norm, relu": lambda: sequential(nn.BatchNorm2d(4), nn.ReLU(True), features=256),
    "batch norm twice": lambda: sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4),
                                           nn.ReLU(), features=256),
    "batch norm first": lambda: nn.Sequential(nn.BatchNorm2d(3), sequential(nn.ReLU(), features=256)),
    "without affine": lambda: sequential(nn.BatchNorm2d(4, affine=False), nn.ReLU(), features=256),
    "cumulative average": lambda: sequential(nn.BatchNorm2d(4, momentum=None), nn.ReLU(), features=256),
    "without running statistics": lambda: sequential(nn.BatchNorm2d(4, track_running_stats=False), features=256),
    "max pool": lambda: sequential(nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(4, 4, 1), features=64),
    "max pool, ceil": lambda: sequential(nn.MaxPool2d(3, ceil_mode=True), features=36),
    "relu, max pool": lambda: sequential(nn.ReLU(True), nn.MaxPool2d(3, 2, padding=1), features=64),
    "relu, max pool twice": lambda: sequential(nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.ReLU(), features=16),
    "batch norm, relu, max pool": lambda: sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), features=64),
    "average pool": lambda: sequential(nn.ReLU(), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), features=64),
    "global pool": lambda: sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), features=4),
    "adaptive pool": lambda: sequential(nn.ReLU(), nn.AdaptiveAvgPool2d((3, 2)), features=24),
    "nothing": lambda: sequential(nn.Identity(), nn.Dropout(0.0), nn.ReLU(), nn.Dropout2d(0.0), features=256),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name):
    torch.manual_seed(0)
    assert_same(stirred(LAYERS[name]()), atlas(num_projections=2), *images())


class Written(nn.Module):
    """forward: a function of the module and x."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.fc, self.fc4 = nn.Linear(256, 5), nn.Linear(4, 5)
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(self, x)


def branches(m, x):
    """Values with three users, one of them added to itself."""
    a = m.bn(m.conv(x))
    b = F.relu(a) + a
    return m.fc((m.conv2(b) + b + b).flatten(1))


def activations_added(m, x):
    """The masks of both ReLUs are needed after their sum."""
    h = m.conv(x)
    return m.fc((F.relu(m.bn(h)) + F.relu(m.conv2(h))).flatten(1))


def added_in_place(m, x):
    out = m.conv(x)
    identity = F.relu(out)
    out = m.conv2(identity)
    out += identity
    out = m.relu(out)
    return m.fc(out.view(out.size(0), -1))


def dead_end(m, x):
    h = m.conv(x)
    m.conv2(m.bn(h))  # updates the statistics, but no logit depends on it
    return m.fc(h.relu().flatten(1))


def sum_that_widens(m, x):
    h = m.conv(x).relu()
    return m.fc(torch.add(h.mean((2, 3), keepdim=True), h).flatten(1))


def pooled_twice(m, x):
    """The ReLU before the first pooling has another user, the one before the second has not."""
    a = F.relu(m.conv(x))
    b = F.max_pool2d(a, 3, 1, padding=1) - 0.25
    return m.fc4(F.max_pool2d(m.conv2(b).relu(), 2).mean((2, 3)) + a.mean((2, 3)))


FUNCTIONS = {
    "branches": branches,
    "activations added": activations_added,
    "added in place": added_in_place,
    "shape": lambda m, x: m.fc(torch.relu(m.conv(x)).reshape(x.shape[0], -1)),
    "flatten": lambda m, x: m.fc(torch.flatten(m.conv(x).relu(), 1)),
    "sizes": lambda m, x: m.fc(m.conv(x).relu_().view(-1, 4 * x.size(2) * x.size(3))),
    "mean": lambda m, x: m.fc4(F.relu(m.bn(m.conv(x))).mean([-2, -1])),
    "permute": lambda m, x: m.fc(torch.permute(m.conv(x).permute(0, 2, 3, 1).relu(), (0, 3, 1, -2)).flatten(1)),
    "torch.mean": lambda m, x: m.fc4(torch.flatten(torch.mean(m.bn(m.conv(x)), (2, 3), keepdim=True), 1)),
    "pools": lambda m, x: m.fc4(F.adaptive_avg_pool2d(F.avg_pool2d(F.max_pool2d(m.conv(x), 2), 2), 1).flatten(1)),
    "pooled twice": pooled_twice,
    "relu in place, pool": lambda m, x: m.fc4(m.relu(F.max_pool2d(m.relu(m.conv(x)), 3)).mean((2, 3))),
    "normalised": lambda m, x: m.fc(m.conv((x - m.mean[None, :, None, None]) / 0.25).relu().flatten(1)),
    "constants": lambda m, x: m.fc(m.conv(1.5 * (1 - x) * 2 + m.mean.view(-1, 1, 1)).relu().mul(0.5).flatten(1)),
    "constant that widens": lambda m, x: m.fc(m.conv(x.mean(1, keepdim=True) - m.mean.view(3, 1, 1)).relu().flatten(1)),
    "sum that widens": sum_that_widens,
    "dead end": dead_end,
    "dropout": lambda m, x: m.fc(F.dropout(m.conv(x).relu(), 0.5, training=False).flatten(1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function(name):
    assert_same(stirred(Written(FUNCTIONS[name])), atlas(num_projections=2), *images())


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", ["relu, max pool", "batch norm, relu, max pool", "pooled twice"])
def test_pooling_with_and_without_its_kernel(name, kernel, monkeypatch):
    if kernel and not ops.backends()["relu_max_pool"]["cpu"][0] == "C++":
        pytest.skip("compiled extension not installed")
    ran, model = [], LAYERS[name]() if name in LAYERS else Written(FUNCTIONS[name])
    fused = pooling.relu_max_pool
    monkeypatch.setattr(pooling, "relu_max_pool", lambda *args: ran.append(args) or fused(*args))
    if not kernel:
        monkeypatch.setattr(pooling, "has_kernel_for", lambda x, kernel: False)
    assert_same(stirred(model), atlas(num_projections=2), *images())
    assert bool(ran) == kernel


def test_which_relus_join_their_pooling():
    def rules(model):
        return [type(step.rule).__name__ + (" of relu" if getattr(step.rule, "relu", False) else "")
                for step in graph.build(model).steps]

    assert rules(LAYERS["relu, max pool"]()) == ["Convolution", "MaxPool of relu", "Flatten", "Linear"]
    assert rules(LAYERS["max pool"]())[:2] == ["Convolution", "MaxPool"]
    names = rules(LAYERS["batch norm, relu, max pool"]())
    assert names[:3] == ["Convolution", "BatchNorm of relu", "MaxPool of relu"]
    names = rules(Written(pooled_twice))
    assert names[:3] == ["Convolution", "ReLU", "MaxPool of relu"] and names.count("ReLU") == 1


def test_channels_last():
    model, x, y = family("wide_resnet")
    model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    assert_same(model, atlas(), x, y)


@pytest.mark.parametrize("kl", [None, "adv||clean"])
def test_jacobian_at_another_point_than_the_cross_entropy(kl):
    """Without a KL the logits at x' have no gradient of their own."""
    model, x, y = family("wide_resnet")
    assert_same(model, atlas().replace(ce_at="x", kl=kl), x, y)


def test_a_metric_of_the_user():
    model, x, y = family("wide_resnet")
    assert_same(model, atlas().replace(metric=lambda base, other: (base - other).square().mean()), x, y)


@pytest.mark.parametrize("frozen", ["conv", "groups.0", "groups.1.bn1", "fc", "groups", "conv.,groups,bn,fc.weight"])
def test_frozen_parameters(frozen):
    model, x, y = family("wide_resnet")
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(tuple(frozen.split(","))))
    own = assert_same(model, atlas(), x, y)
    assert any(g is None for g in own.values()) and not all(g is None for g in own.values())


def test_gradients_add_to_those_that_are_there():
    model, x, y = family("small_cnn")
    once = gradients(SweepView(copy.deepcopy(model)), atlas(), x, y)[1]
    view = SweepView(model)
    gradients(view, atlas(), x, y)
    twice = gradients(view, atlas(), x, y)[1]
    assert all(torch.equal(twice[name], 2 * g) for name, g in once.items())


def test_deferred_to_the_losses_backward():
    model, x, y = family("wide_resnet")
    expected = gradients(SweepView(copy.deepcopy(model)), atlas(), x, y)[1]
    prepared = program.prepare(atlas(), SweepView(model), x, y, rng=ops.make_rng(3, 1))
    (3 * prepared.tape.differentiable(prepared.loss, prepared.dlogits)).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, 3 * expected[name], rtol=1e-12, atol=1e-14)


def test_inputs_and_logits_stay_unchanged():
    model, (x, _) = stirred(Written(lambda m, x: m.fc(m.relu(m.conv(m.relu(x))).flatten(1)))), images()
    before, view = x.clone(), SweepView(model)
    tape = view.forward({"x": x}, wrt=("x",))
    logits = tape.logits["x"].clone()
    v = ops.unit_vectors(ops.make_rng(0), *logits.shape, draws=2).double()
    saved = v.clone()
    g = tape.backward({"x": v}, weights=False, record=True)["x"]
    u = g.clone()
    tape.tangent("x", u)
    tape.backward({"x": v[0]}, weights=True)
    unchanged = [(x, before), (tape.logits["x"], logits), (v, saved), (u, g)]
    assert all(torch.equal(a, b) for a, b in unchanged)


@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_steps_of_training(name):
    """Same random numbers: the 20 adversaries agree as well, or the weights would part."""
    model, _, y = family(name)
    data = [torch.rand(4, FAMILIES[name][1], 8, 8, dtype=torch.float64) for _ in range(20)]
    trained = []
    for engine in ("autograd", "sweeps"):
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
        step = TrainingStep(own, atlas(), optimizer, engine=engine, seed=3)
        for x in data:
            step(x, y)
        trained.append(own.state_dict())
    for key, value in trained[0].items():
        assert (trained[1][key] - value).double().norm() <= 1e-9 * value.double().norm(), key


class Calls(TorchDispatchMode):
    """What reaches the kernels: (operation, mask of a convolution's backward)."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        backward = func is torch.ops.aten.convolution_backward.default
        self.seen.append((func.overloadpacket.__name__, tuple(args[-1]) if backward else None))
        return func(*args, **(kwargs or {}))

    def masks(self):
        return [mask for name, mask in self.seen if name == "convolution_backward"]


def test_no_needless_convolution():
    """Counts of the work note: 11 forward-equivalents, less what the first layer does not need."""
    model, x, y = family("wide_resnet")
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    few = 2  # the first convolution of 3 channels and stride 1 is native; see rules/input_gradient.py for others
    view = SweepView(model)
    with Calls() as crafting:
        program.craft(atlas(), view, x, y, ramp=1.0, rng=ops.make_rng(0))
    assert set(crafting.masks()) == {(True, False, False)}
    with Calls() as all_calls:
        prepared = program.prepare(atlas(), view, x, y)
        prepared.accumulate()
    masks, names = all_calls.masks(), [name for name, _ in all_calls.seen]
    assert sum(weight for _, weight, _ in masks) == 3 * convolutions
    native = sum(image for image, _, _ in masks)
    by_phases = names.count("flip")
    assert native + by_phases == 4 * convolutions - few  # crafting, vjp, x' and x, where the images' is left out
    assert names.count("convolution") == 4 * convolutions + by_phases  # x0, x', x, tangent
    assert not prepared.tape.logits["x"].requires_grad and not prepared.loss.requires_grad


def hooked(module_hook):
    model = sequential(nn.ReLU(), features=256)
    if module_hook:
        model[0].register_forward_hook(lambda *_: None)
    else:
        model[0].weight.register_hook(lambda g: g)
    return model


class Twice(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(192, 5)
        self.b.weight = self.a.weight
        self.tied = tied

    def forward(self, x):
        return self.fc((self.b if self.tied else self.a)(self.a(x)).flatten(1))


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


def written(head):
    """A model whose activations of 4 channels at 8x8 are head(module, images)."""
    return lambda: Written(lambda m, x: m.fc(head(m, x).flatten(1)))


def remembers(m, x):
    m.last = m.conv(x)
    return m.last


UNSUPPORTED = {
    "rule for Softplus '1'": lambda: sequential(nn.Softplus(), features=256),
    "rule for sigmoid": written(lambda m, x: m.conv(x).sigmoid()),
    "rule for mul of two activations": written(lambda m, x: (h := m.conv(x)) * m.conv2(h)),
    "rule for add .* with these arguments": written(lambda m, x: torch.add(m.conv(x), 1, alpha=2)),
    "dropout with p=0.5": lambda: sequential(nn.Dropout(0.5), features=256),
    "rule for dropout with p=0.3, which is random": written(lambda m, x: F.dropout(m.conv(x), 0.3)),
    "Conv2d '0', which has a hook": lambda: hooked(True),
    "parameter '0.weight', which has a hook": lambda: hooked(False),
    "a, whose parameters are used twice": lambda: Twice(False),
    "b, whose parameters are used twice": lambda: Twice(True),
    "'scale', a parameter or tensor": written(lambda m, x: m.conv(x) * m.scale),
    "torch.fx cannot trace: symbolically traced": written(lambda m, x: m.conv(x) if x.sum() > 0 else x),
    "Written, whose forward sets attributes": written(remembers),
    "does not return one tensor": lambda: Written(lambda m, x: (m.fc(m.conv(x).flatten(1)), x)),
    "relu.* in place on a value that is used again": written(lambda m, x: m.relu(h := m.conv(x)) + h),
    "relu_.* in place on a value that is used": written(lambda m, x: m.conv2((h := m.conv(x)).flatten(1).relu_()) + h),
    "'0.weight', a parameter or tensor": lambda: nn.Sequential(Scaled(3, 4, 1), nn.Flatten(), nn.Linear(256, 5)),
    "padding_mode 'circular'": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
}


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_unsupported_models_are_named_and_run_by_autograd(message):
    model = UNSUPPORTED[message]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match=message):
        TrainingStep(model, atlas(), optimizer, engine="sweeps")
    step = TrainingStep(model, atlas(), optimizer, engine="auto")
    assert step.engine == "autograd" and step.engine_reason == unsupported(model)


def test_which_engine_runs():
    model = family("wide_resnet")[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    auto, sweeps, autograd = (TrainingStep(model, atlas(), optimizer, engine=engine) for engine in ENGINES)
    assert (auto.engine, sweeps.engine, autograd.engine) == ("sweeps", "sweeps", "autograd")
    assert auto.engine_reason is None and "asked for" in autograd.engine_reason
    local = atlas().replace(local=lambda logits, x, y: logits.square().mean())
    assert "`local`" in TrainingStep(model, local, optimizer).engine_reason
    with pytest.raises(UserError, match="engine='sweeps' cannot run this: the objective's own `local` penalty"):
        TrainingStep(model, local, optimizer, engine="sweeps")


def test_a_traced_model_keeps_its_attributes():
    model = Written(lambda m, x: m.fc((m.conv(x) * torch.ones(1)).flatten(1)))
    before = set(vars(model))
    unsupported(model)
    assert set(vars(model)) == before


def test_modes_may_change_between_steps():
    """forward() may ask for the mode, which tracing makes a constant."""
    model = stirred(Written(lambda m, x: m.fc(m.bn(m.conv(x)).flatten(1) * (2.0 if m.training else 1.0))))
    view, (x, _) = SweepView(model.eval()), images()
    assert torch.equal(view.forward({"x": x}).logits["x"], model(x))
    model.train()
    torch.testing.assert_close(view.forward({"x": x}).logits["x"], model(x), rtol=1e-12, atol=1e-12)
    dropout = sequential(nn.Dropout(0.5), features=256).eval()
    view = SweepView(dropout)
    dropout.train()
    with pytest.raises(UserError, match="no rule for dropout with p=0.5.*engine='autograd'"):
        view.forward({"x": x.float()})


def test_logits_that_do_not_depend_on_the_images_are_refused():
    model = Written(lambda m, x: m.fc4(m.mean.new_zeros(x.size(0), 4)))
    assert unsupported(model) is not None


def relative_error(grads, exact):
    flat, expected = (torch.cat([g.double().flatten() for g in gs]) for gs in (grads, exact))
    return ((flat - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("method", ["plain", "jac"])
def test_bfloat16_errs_as_pytorch_does(method):
    """At most three times the error of plain PyTorch under autocast, without the oneDNN convolution that is wrong
    for a double backward at small batches."""
    torch.manual_seed(0)
    model, (x, y) = models.wide_resnet(10, 2, 5), images(size=16, count=8, dtype=torch.float32)
    exact = gradients(SweepView(copy.deepcopy(model).double()), objective_of(method), x.double(), y)[1].values()
    own = gradients(SweepView(copy.deepcopy(model), amp=torch.bfloat16), objective_of(method), x, y)[1].values()
    x = x.requires_grad_()
    with torch.backends.mkldnn.flags(enabled=False):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x).float()
        loss = F.cross_entropy(logits, y)
        if method == "jac":
            (v,) = ops.unit_vectors(ops.make_rng(3, 1), *logits.shape)
            (rows,) = torch.autograd.grad(logits, x, v, create_graph=True)
            loss = loss + 0.02 * rows.square().sum() * (5 / len(x))
        stock = torch.autograd.grad(loss, list(model.parameters()))
    assert all(g.dtype == torch.float32 for g in own)
    assert relative_error(own, exact) <= 3 * relative_error(stock, exact) < 1


def test_bfloat16_on_a_cpu_is_allowed():
    """The weight gradients do not come from PyTorch's double backward."""
    model = models.small_cnn(5, 3, 8)
    step = TrainingStep(model, atlas(), torch.optim.SGD(model.parameters(), lr=0.01), amp="bf16")
    x, y = images(dtype=torch.float32)
    assert torch.isfinite(step(x, y)["loss"]) and all(p.grad.dtype == torch.float32 for p in model.parameters())
