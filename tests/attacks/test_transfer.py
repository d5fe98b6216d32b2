"""Transfer: whose adversaries they are, and the cache."""

import copy
import warnings

import pytest
import torch
from torch import nn

from atlas_fast import ops
from atlas_fast.attacks import PGD, Transfer
from atlas_fast.errors import UserError


def surrogate(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(),
                         nn.Linear(64, 3)).train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(9, 1, 6, 6, generator=generator), torch.randint(3, (9,), generator=generator)


@pytest.fixture
def counting(monkeypatch):
    """How often PGD ran."""
    calls, original = [], PGD.__call__

    def call(self, *arguments, **keywords):
        calls.append(1)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(PGD, "__call__", call)
    return calls


ATTACK, RNG = PGD(0.1, steps=5), ops.make_rng(1)


def test_they_are_the_surrogates_adversaries_in_eval_mode(batch):
    net = surrogate()
    before = copy.deepcopy(net.state_dict())
    x_adv = Transfer(net, ATTACK)(None, *batch, rng=RNG, sample_offset=3)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(x_adv, ATTACK(net.eval(), *batch, rng=RNG, sample_offset=3))


def test_the_cache_gives_what_was_made(tmp_path, batch, counting):
    first = Transfer(surrogate(), ATTACK, tmp_path / "a" / "b")(None, *batch, rng=RNG)
    again = Transfer(surrogate(), PGD(0.1, steps=5), tmp_path / "a" / "b")(None, *batch, rng=RNG)
    assert len(counting) == 1 and torch.equal(again, first)
    assert [file.suffix for file in (tmp_path / "a" / "b").iterdir()] == [".safetensors"]


def test_any_change_makes_a_new_file(tmp_path, batch, counting):
    x, y = batch
    changed = surrogate()
    changed[1].running_mean += 0.1
    other = nn.Sequential(*surrogate()[:2], nn.Tanh(), *surrogate()[3:])  # the same weights in another network
    cases = [(surrogate(), ATTACK, x, y, RNG, 0), (surrogate(1), ATTACK, x, y, RNG, 0), (changed, ATTACK, x, y, RNG, 0),
             (other, ATTACK, x, y, RNG, 0), (surrogate(), PGD(0.1, steps=6), x, y, RNG, 0),
             (surrogate(), ATTACK, x.flip(0), y, RNG, 0), (surrogate(), ATTACK, x, (y + 1) % 3, RNG, 0),
             (surrogate(), ATTACK, x, y, ops.make_rng(2), 0), (surrogate(), ATTACK, x, y, RNG, 9)]
    for count in (len(cases), len(cases)):  # the second round finds all
        for net, attack, images, labels, rng, offset in cases:
            expected = attack(net.eval(), images, labels, rng=rng, sample_offset=offset)
            counting.pop()
            assert torch.equal(Transfer(net, attack, tmp_path)(None, images, labels, rng, offset), expected)
        assert len(counting) == count and len(list(tmp_path.iterdir())) == count


def test_without_a_seed_nothing_is_kept(tmp_path, batch, counting):
    transfer = Transfer(surrogate(), ATTACK, tmp_path / "cache")
    assert not torch.equal(transfer(None, *batch), transfer(None, *batch))
    assert len(counting) == 2 and not (tmp_path / "cache").exists()


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_flip_a_bit, lambda path: path.write_bytes(b""),
                                    lambda path: path.write_bytes(path.read_bytes()[:-7]),
                                    lambda path: path.write_bytes(b"no such thing" * 9)])
def test_a_damaged_file_is_made_anew_with_a_warning(tmp_path, batch, counting, damage):
    transfer = Transfer(surrogate(), ATTACK, tmp_path)
    expected = transfer(None, *batch, rng=RNG)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(transfer(None, *batch, rng=RNG), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(transfer(None, *batch, rng=RNG), expected)
    assert len(counting) == 2


def test_settings_and_errors(tmp_path, batch):
    settings = Transfer(surrogate(), ATTACK).settings
    assert settings["attack"] == "PGD" and settings["steps"] == 5 and len(settings["surrogate"]) == 16
    with pytest.raises(UserError, match="surrogate must be a torch.nn.Module"):
        Transfer(lambda x: x, ATTACK)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be cached"):
        Transfer(surrogate(), ATTACK, tmp_path / "file")(None, *batch, rng=RNG)
