"""--model and --objective of the user's own, by module:function."""

import importlib
import sys

import pytest
import torch
from torch import nn

import atlas_fast as af
from atlas_fast import train
from atlas_fast.errors import UserError
from atlas_fast.training import read_config, resolve
from atlas_fast.training.setup import make_objective

NETS = '''
import torch
from torch import nn

def make(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Conv2d(in_channels, 6, 3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
                         nn.Linear(6 * (image_size - 2) ** 2, num_classes))

class Holder:
    make = staticmethod(make)

number = 3
def fails(num_classes, in_channels, image_size): raise KeyError("weights")
def no_net(num_classes, in_channels, image_size): return "net"
def no_arguments(): return nn.Identity()
def too_many(num_classes, in_channels, image_size): return make(num_classes + 1, in_channels, image_size)
def unreadable(num_classes, in_channels, image_size):
    class Net(nn.Linear):
        def forward(self, x):
            return {"logits": x}
    return Net(1, 1)
'''
LOSSES = '''
import atlas_fast as af

def trades(eps, steps, step_size):
    return af.objectives.trades(eps=eps, steps=steps, step_size=step_size, beta=3.0)

def smooth(eps, steps, step_size):
    return af.objectives.plain(label_smoothing=0.1)

def l1(eps, steps, step_size):
    def metric(base, other):
        return (base.softmax(1) - other.softmax(1)).abs().sum(1).mean()
    return af.objectives.atlas_g(eps=eps, steps=steps, step_size=step_size, beta=1.0).replace(metric=metric)

def half(eps, steps, step_size): return af.objectives.adv(eps=eps / 2, steps=steps)
def ten(eps, steps, step_size): return af.objectives.adv(eps=eps, steps=10)
def still(eps, steps, step_size): return trades(eps, steps, step_size).replace(ramps=False)
def loss(eps, steps, step_size): return lambda model, x, y: model(x).sum()
'''


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, text in (("own_nets", NETS), ("own_losses", LOSSES), ("own_broken", "import no_such_module\n")):
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()


def test_a_run_with_both_is_trained_loaded_and_evaluated(small_run, read_log):
    run = small_run("--model", "own_nets:Holder.make", "--objective", "own_losses:l1", "--epochs", "2", "--lr", "0.02")
    config, _ = read_config(run)
    assert (config.method, config.objective, config.model) == ("own", "own_losses:l1", "own_nets:Holder.make")
    assert {"loss", "ce", "metric"} <= set(read_log(run)[0]) and not {"kl", "jacobian"} & set(read_log(run)[0])
    model = af.load(run)
    assert [type(m) for m in model] == [nn.Conv2d, nn.ReLU, nn.Dropout, nn.Flatten, nn.Linear] and not model.training
    importlib.import_module("atlas_fast.evaluate").main([str(run), "--attacks", "pgd-2", "--device", "cpu"])
    assert (run / "evaluation.json").is_file()


def test_it_is_the_objective_that_is_trained(small_run):
    options = ("--epochs", "2", "--steps", "2", "--beta", "3", "--model", "small_cnn")
    preset = small_run("--method", "trades", *options, out="preset")
    own = small_run("--objective", "own_losses:trades", *options[:4], *options[6:], out="own")
    for name, value in af.load(preset).state_dict().items():
        assert torch.equal(value, af.load(own).state_dict()[name]), name


def test_a_resumed_run_with_dropout_ends_as_an_uninterrupted_one(small_run, monkeypatch):
    options = ("--model", "own_nets:make", "--objective", "own_losses:trades", "--epochs", "3")
    whole = small_run(*options, out="whole")
    save, saved = train.saving.Saver.save, []

    def dies(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:  # the start and the first epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(train.saving.Saver, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        small_run(*options, out="cut")
    monkeypatch.setattr(train.saving.Saver, "save", save)
    torch.manual_seed(99)
    cut = whole.with_name("cut")
    train.main(["--resume", "--out", str(cut)])
    for name, value in af.load(whole).state_dict().items():
        assert torch.equal(value, af.load(cut).state_dict()[name]), name


def test_steps_0_is_an_objective_without_adversary():
    config = resolve({"objective": "own_losses:smooth", "steps": 0})
    assert not config.has_adversary and config.eps_at(1.0) == 0
    assert make_objective(config).label_smoothing == 0.1


@pytest.mark.parametrize("options, sentence", [
    (["--model", "own_nets:nothing"], "has no callable 'nothing'"), (["--model", "own_nets:number"], "no callable"),
    (["--model", "no_such_nets:make"], "cannot be imported"), (["--model", "own_broken:make"], "no_such_module"),
    (["--model", "own_nets:"], "not named module:function"), (["--model", ":make"], "not named module:function"),
    (["--model", "own_nets:fails"], "failed with KeyError: 'weights'"),
    (["--model", "own_nets:no_arguments"], "failed with TypeError"),
    (["--model", "own_nets:no_net"], "returned str; it must return a torch.nn.Module"),
    (["--model", "own_nets:too_many"], "gives (1, 11) for one image, not logits [1, 10]"),
    (["--model", "own_nets:unreadable"], "gives dict for one image"),
    (["--objective", "own_losses:nothing"], "the objective 'own_losses:nothing' cannot be used"),
    (["--objective", "trades"], "not named module:function"),
    (["--objective", "own_losses:loss"], "returned function; it must return a atlas_fast.objectives"),
    (["--objective", "own_losses:half"], "has eps 0.05, the run 0.1"),
    (["--objective", "own_losses:ten"], "give --steps 10"), (["--objective", "own_losses:still"], "--ramp-epochs 0"),
    (["--objective", "own_losses:trades", "--method", "adv"], "leave --method adv away"),
    (["--objective", "own_losses:trades", "--beta", "1"], "own has no beta"),
    (["--objective", "own_losses:smooth"], "give --steps 0"), (["--method", "own"], "--method must be one of")])
def test_what_cannot_be_used_is_refused_and_nothing_is_written(options, sentence, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError) as error:
        train.main([*options, "--device", "cpu", "--out", str(out)])
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not out.exists()
