"""A step recorded once and replayed. Without a CUDA device a stand-in records: what surrounds a graph is tested."""

import copy
import warnings

import pytest
import torch
from comparing import atlas, family
from torch import nn

from atlas_fast import objectives
from atlas_fast.data.augment import CropFlip
from atlas_fast.engine import TrainingStep
from atlas_fast.engine.capture import WARM_UP, Captured
from atlas_fast.errors import UserError

EARLIER = WARM_UP + 1  # steps before the first replay: the first one creates the optimiser's state


class Recorder:
    """Like CudaRecorder: what is recorded sees only the tensors that it was recorded with."""

    def __init__(self, fails: bool = False):
        self.recordings, self.fails = 0, fails

    def run(self, function, *tensors):
        return function(*tensors)

    def record(self, function, *tensors):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.recordings += 1
        return lambda: function(*tensors)


def sgd(model, **changes):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **changes})


def make(recorder=None, fused=True, **options):
    """A step, with its graphs where there is a recorder."""
    model = family("wide_resnet")[0].float()
    step = TrainingStep(model, atlas(), sgd(model, fused=fused), seed=3, **options)
    if recorder is not None:
        step._graph = Captured(step._recorded, recorder)
    return step


def batches(count, size=4):
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(size, 3, 8, 8, generator=generator), torch.randint(5, (size,), generator=generator))
            for _ in range(count)]


def everything(step):
    values = list(step.model.state_dict().values())
    values += [v for state in step.optimizer.state.values() for v in state.values()]
    return torch.cat([v.double().flatten() for v in values])


@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
def test_replays_are_steps(engine):
    recorder = Recorder()
    plain, step = make(engine=engine), make(recorder, engine=engine)
    for i, (x, y) in enumerate(batches(8)):
        for s in (plain, step):
            s.ramp = min(1.0, i / 4)
            for group in s.optimizer.param_groups:
                group["lr"] = 0.05 / (1 + i)
        assert step(x, y)["loss"].item() == plain(x, y)["loss"].item()
        assert step.captured == (i >= EARLIER)
    assert recorder.recordings == 1 and torch.equal(everything(step), everything(plain))
    assert step.state_dict() == plain.state_dict() == {"seed": 3, "step": 8}


def test_other_shapes_run_uncaptured_and_leave_the_recording():
    recorder = Recorder()
    plain, step = make(), make(recorder)
    data = batches(EARLIER + 1) + batches(1, size=3) + batches(2)
    captured = []
    for x, y in data:
        assert step(x, y)["loss"].item() == plain(x, y)["loss"].item()
        captured.append(step.captured)
    assert captured[-4:] == [True, False, True, True] and recorder.recordings == 1
    assert torch.equal(everything(step), everything(plain))


def test_inputs_are_copied():
    step, data = make(Recorder()), batches(EARLIER + 2)
    for x, y in data:
        kept = x.clone(), y.clone()
        step(x, y)
        assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    assert step.captured


CHANGES = {
    "mode": lambda step: step.model.bn.eval(),
    "frozen": lambda step: step.model.conv.weight.requires_grad_(False),
    "momentum": lambda step: step.optimizer.param_groups[0].update(momentum=0.5),
    "weight decay": lambda step: step.optimizer.param_groups[0].update(weight_decay=0.0),
    "loaded state": lambda step: step.optimizer.load_state_dict(copy.deepcopy(step.optimizer.state_dict())),
    "moved weights": lambda step: setattr(step.model.fc.weight, "data", step.model.fc.weight.data.clone()),
    "moved statistics": lambda step: setattr(step.model.bn.running_mean, "data",
                                             step.model.bn.running_mean.data.clone()),
    "another augmentation": lambda step: setattr(step, "augment", CropFlip(1)),
    "another objective": lambda step: setattr(step, "objective", objectives.adv(eps=0.1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_recording_freezes_is_noticed(change):
    recorder = Recorder()
    plain, step = make(), make(recorder)
    for i, (x, y) in enumerate(batches(2 * EARLIER + 4)):
        if i == EARLIER + 2:
            assert step.captured
            CHANGES[change](plain)
            CHANGES[change](step)
        assert step(x, y)["loss"].item() == plain(x, y)["loss"].item(), i
        if i == EARLIER + 2:
            assert not step.captured
    assert step.captured and recorder.recordings == 2
    assert torch.equal(everything(step), everything(plain))


def test_a_learning_rate_is_not_frozen():
    step = make(Recorder())
    for i, (x, y) in enumerate(batches(EARLIER + 2)):
        if i == EARLIER + 1:
            before = step.model.fc.weight.detach().clone()
            step.optimizer.param_groups[0]["lr"] = 0.0
        step(x, y)
    assert step.captured and torch.equal(step.model.fc.weight, before)


def test_an_optimizer_that_is_not_fused_stays_outside():
    plain, step = make(fused=False), make(Recorder(), fused=False)
    assert "SGD decides on the host; make it with fused=True" in step._update.optimizer.why_not_capturable
    for x, y in batches(EARLIER + 2):
        assert step(x, y)["loss"].item() == plain(x, y)["loss"].item()
        step.optimizer.zero_grad()  # as a user may, between steps
    assert step.captured and torch.equal(everything(step), everything(plain))


@pytest.mark.parametrize(("make_optimizer", "reason"), [
    (lambda p: torch.optim.SGD(p, lr=0.1, fused=True), None),
    (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, fused=True), "dampening"),
    (lambda p: torch.optim.Adam(p, fused=True), "Adam is not capturable; make it with capturable=True"),
    (lambda p: torch.optim.RMSprop(p), "RMSprop decides on the host"),
])
def test_which_optimizers_can_be_recorded(make_optimizer, reason):
    model = family("small_cnn")[0]
    step = TrainingStep(model, atlas(), make_optimizer(model.parameters()))
    why = step._update.optimizer.why_not_capturable
    assert (why is None) == (reason is None) and (reason is None or reason in why)


def test_an_optimizer_with_a_hook_is_not_recorded():
    step = make()
    step.optimizer.register_step_post_hook(lambda *args: None)
    assert "has hooks" in step._update.optimizer.why_not_capturable


def test_an_augmentation_of_the_user_runs_for_every_batch():
    shifts, plain_shifts = iter(range(20)), iter(range(20))
    plain = make(augment=lambda x, rng: x.roll(next(plain_shifts), -1))
    step = make(Recorder(), augment=lambda x, rng: x.roll(next(shifts), -1))
    for x, y in batches(EARLIER + 2):
        assert step(x, y)["loss"].item() == plain(x, y)["loss"].item()
    assert step.captured


def test_a_recording_that_fails_is_said_once():
    plain, step = make(), make(Recorder(fails=True))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for x, y in batches(EARLIER + 3):
            assert step(x, y)["loss"].item() == plain(x, y)["loss"].item()
    said = [str(w.message) for w in seen if "CUDA graph" in str(w.message)]
    assert said == ["atlas_fast runs without a CUDA graph, since the step cannot be captured: operation not permitted "
                    "when stream is capturing"]
    assert not step.captured and step._graph.reason in said[0]


@pytest.mark.parametrize("batch", [(torch.rand(4, 3, 8, 8), torch.zeros(3, dtype=torch.int64)),
                                   (torch.rand(4, 3, 8, 8).half(), torch.zeros(4, dtype=torch.int64)),
                                   (torch.rand(4, 3, 8, 8), torch.zeros(4))])
def test_bad_batches_are_refused_by_a_recording_too(batch):
    step = make(Recorder())
    for x, y in batches(EARLIER + 1):
        step(x, y)
    before = everything(step)
    with pytest.raises(UserError):
        step(*batch)
    assert torch.equal(everything(step), before)


def test_on_a_cpu_nothing_is_recorded():
    step = make()
    assert not step.captured and step.capture_reason == "cpu has no CUDA graphs"
    with pytest.raises(UserError, match="capture='on' needs a CUDA device, and the model is on cpu"):
        make(capture="on")
    with pytest.raises(UserError, match="capture must be one of auto, on, off"):
        make(capture="maybe")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("engine", ["sweeps", "autograd"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_graph_steps_as_without_one(engine, amp, fused):
    """The same steps captured and not, as near as two runs without graphs are (cuDNN may choose other algorithms)."""
    losses = {}
    for capture in ("off", "off again", "on"):
        model = family("wide_resnet")[0].float().to("cuda", memory_format=torch.channels_last)
        step = TrainingStep(model, atlas(), sgd(model, fused=fused), engine=engine, amp=amp, augment=CropFlip(1),
                            capture=capture.split()[0], seed=3)
        losses[capture] = []
        for x, y in batches(EARLIER + 4):
            terms = step((x * 255).byte().cuda(), y.cuda())
            losses[capture].append(terms["loss"].item())
        assert step.captured == (capture == "on") and step.skipped == 0
    noise = max(abs(a - b) for a, b in zip(losses["off"], losses["off again"], strict=True))
    assert losses["on"] == pytest.approx(losses["off"], rel=0.02, abs=10 * noise)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_forward_that_asks_the_host_cannot_be_recorded():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(192, 5)

        def forward(self, x):
            return self.fc(x.flatten(1)) * (2.0 if x.sum().item() > 0 else 1.0)

    model = Asks().cuda()
    step = TrainingStep(model, atlas(), sgd(model, fused=True))
    with pytest.warns(RuntimeWarning, match="runs without a CUDA graph"):
        for x, y in batches(EARLIER + 2):
            assert torch.isfinite(step(x.cuda(), y.cuda())["loss"])
    assert "cannot be captured" in step.capture_reason
