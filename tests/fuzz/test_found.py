"""What fuzzing found, each as the input that showed it: wrong answers without a word, and raw tracebacks."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import atlas_fast as af
from atlas_fast import data, models, ops, reproduce, sweep, train
from atlas_fast.errors import UserError, run_cli
from atlas_fast.evaluation.compare import side_by_side
from atlas_fast.evaluation.suite import create_suite
from atlas_fast.reproduction.grid import read_list
from atlas_fast.training.config import read_config, resolve

RNG = ops.make_rng(3, 5)
INF, NAN = float("inf"), float("nan")


def test_a_strided_random_state_is_read():
    strided = torch.stack([RNG, RNG], 1)[:, 1]
    assert torch.equal(ops.random_bits(strided, 2, 5), ops.random_bits(RNG, 2, 5))


@pytest.mark.parametrize("purpose", [-1, 2**32, 2**40])
def test_a_counter_word_has_32_bits(purpose):
    """Beyond, the backends had different numbers."""
    with pytest.raises(UserError, match="32 bits"):
        ops.random_bits(RNG, 2, 5, purpose=purpose)


def test_a_seed_is_a_whole_number():
    """0.5 was the seed 0."""
    with pytest.raises(UserError, match="whole number"):
        ops.make_rng(0.5)


def test_numbers_that_float32_cannot_hold():
    """1e39 was infinite to the kernel, and a zero gradient moved its pixel to infinity times zero."""
    x = torch.full((1, 2), 0.5)
    with pytest.raises(UserError, match="finite and >= 0"):
        ops.pgd_step(x, x, torch.zeros_like(x), 0.1, 1e39)
    assert ops.pgd_step(x.double(), x.double(), torch.zeros(1, 2).double(), 0.1, 1e39).tolist() == [[0.5, 0.5]]


def test_around_nan_there_is_no_ball():
    x, x_adv = torch.tensor([[NAN, 0.5]]), torch.tensor([[0.2, 0.2]])
    found = ops.pgd_step(x, x_adv, torch.ones(1, 2), 0.1, 0.1)
    assert found[0, 0].isnan() and found[0, 1] == 0.4


def test_fgsm_needs_the_state_of_its_start():
    """None drew another one: a step from a point at which the gradient was not taken."""
    x = torch.rand(1, 4)
    with pytest.raises(UserError, match="tensors"):
        ops.fgsm(x, x, 0.1, 0.1, None)


def test_uniform_targets_and_a_class_that_cannot_be():
    terms, _, _ = ops.ce_kl_terms(torch.tensor([[-INF, 1.0, 2.0]]), None, torch.tensor([0]), 0.0, label_smoothing=1.0)
    assert terms.tolist() == [INF, INF, 0]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_nuclear_norm_of_large_and_small_matrices(size):
    """Squares left float32's range: the norm was 0 and the gradient with it, or a power of ten too large."""
    d = torch.diag(torch.tensor([3.0, 2.0, 1.0])) * size
    assert abs(float(ops.nuclear_norm(d)) / (6 * size) - 1) < 1e-5


def test_a_window_that_only_ceil_mode_begins():
    x = torch.rand(1, 1, 2, 2)
    window = ((4, 1), (2, 1), (2, 0), (2, 3), True)
    y, _ = ops.relu_max_pool(x, *window)
    assert torch.equal(y, nn.functional.max_pool2d(x, *window))


def test_sums_over_no_samples():
    z, c = torch.zeros(0, 2, 3, 3), torch.ones(2)
    grad = torch.zeros(2)
    ops.norm_relu_tangent_reference(z, None, z, z, c[None], c[None], c, c, torch.zeros(2, 1, 2), grad, 1, True, True)
    assert grad.tolist() == [0, 0]


def test_jacobian_of_logits_that_come_from_elsewhere():
    x, z = torch.rand(2, 3, requires_grad=True), torch.rand(2, 4, requires_grad=True)
    with pytest.raises(UserError, match="computed from x"):
        ops.jacobian_norm(z * 2, x)


def test_half_precision_images_in_attacks_and_evaluations():
    """Their rounding left the ball by up to eps / 16, for which the attack was blamed."""
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    for dtype in (torch.float16, torch.bfloat16):
        for call in (lambda dtype=dtype: af.attacks.PGD(0.03)(model.to(dtype), x.to(dtype), y),
                     lambda dtype=dtype: af.evaluate(model.to(dtype), x.to(dtype), y)):
            with pytest.raises(UserError, match="too coarse"):
                call()


def test_float64_images_and_other_things_in_a_training_step():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    optimizer, objective = torch.optim.SGD(model.parameters(), 0.1), af.objectives.adv(0.03)
    step = af.TrainingStep(model, objective, optimizer)
    with pytest.raises(UserError, match="x.float()"):
        step(torch.rand(2, 1, 4, 4).double(), torch.tensor([0, 1]))
    with pytest.raises(UserError, match="model must be"):
        af.TrainingStep(None, objective, optimizer)
    with pytest.raises(UserError, match="optimizer must be"):
        af.TrainingStep(model, objective, None)


def npz(path, **changed):
    images, labels = np.zeros((4, 3, 3), np.uint8), np.array([0, 1, 0, 1])
    np.savez(path, **{"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels,
                      **changed})
    return path


def test_labels_that_become_negative_in_int64(tmp_path):
    labels = np.array([0, 1, 0, 2**64 - 1], dtype=np.uint64)
    with pytest.raises(UserError, match="holds the label 18446744073709551615"):
        data.load("npz", npz(tmp_path / "a.npz", test_labels=labels))


def test_images_without_pixels(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        data.load("npz", npz(tmp_path / "a.npz", train_images=np.zeros((4, 0, 0), np.float32)))


def test_an_array_of_an_absurd_size(tmp_path):
    """NumPy allocates what the header says: MemoryError."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 3, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for part in ("train", "test"):
            archive.writestr(f"{part}_images.npy", header.getvalue())
            archive.writestr(f"{part}_labels.npy", header.getvalue())
    with pytest.raises(UserError, match="cannot be read"):
        data.load("npz", tmp_path / "a.npz")


def test_weights_of_another_type(tmp_path):
    """A damaged header of a .safetensors file has the right sizes: the bits of floats were taken for integers."""
    model = nn.Linear(3, 2)
    content = save(dict(model.state_dict()))
    (tmp_path / "a.safetensors").write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(UserError, match="of another type"):
        af.load(tmp_path / "a.safetensors", model=nn.Linear(3, 2))
    torch.save({"weight": torch.ones(2, 3, dtype=torch.complex64), "bias": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="of another type"):
        af.load(tmp_path / "a.pt", model=nn.Linear(3, 2))


@pytest.mark.parametrize("change", [{"num_classes": None}, {"num_classes": "10"}, {"eps": "a"}, {"eps": NAN},
                                    {"seed": 0.5}, {"model": 3}, {"in_channels": -1}, {"steps": True}])
def test_settings_of_another_kind(change, tmp_path):
    config = {**vars(resolve({"device": "cpu"})), "num_classes": 10, "in_channels": 1, "image_pixels": 8, **change}
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None
                                                      or key not in change}))
    with pytest.raises(UserError):
        read_config(tmp_path)


def test_json_that_is_nested_too_deeply(tmp_path):
    for name in ("config.json", "evaluation.json", "list.json"):
        (tmp_path / name).write_text("[" * 100_000)
    for read in (read_config, lambda folder: side_by_side([folder, folder]),
                 lambda folder: read_list(folder / "list.json")):
        with pytest.raises(UserError):
            read(tmp_path)
    (tmp_path / "list.json").write_bytes(b"\xff")
    with pytest.raises(UserError):
        read_list(tmp_path / "list.json")


@pytest.mark.parametrize("result", [{"robust_accuracy": "a"}, {"robust_accuracy": NAN}, {"settings": None}, {"n": 0}])
def test_reports_that_are_none(result, tmp_path):
    whole = {"robust_accuracy": 0.5, "standard_error": 0.1, "n": 9, "settings": {}, **result}
    (tmp_path / "evaluation.json").write_text(json.dumps({
        "n": 9, "clean_accuracy": 0.5, "clean_standard_error": 0.1, "attacks": {"pgd-20": whole},
        "worst_case": {**whole, "settings": {}}}))
    with pytest.raises(UserError, match="not a report"):
        side_by_side([tmp_path, tmp_path])


@pytest.mark.parametrize("name", ["wrn-6000004-1", "wrn-10-" + "9" * 5000, "wrn-10-9999"])
def test_networks_that_nobody_can_build(name):
    with pytest.raises(UserError):
        models.create(name, 10)


def test_sizes_of_a_network():
    with pytest.raises(UserError, match="num_classes must be a whole number"):
        models.create("small_cnn", -1, 1, 8)


def test_an_attack_of_more_steps_than_python_reads():
    with pytest.raises(UserError):
        create_suite(["pgd-" + "9" * 5000], 0.1)


@pytest.mark.parametrize("main, line", [
    (train.main, ["--out", "a" * 300]), (train.main, ["--alpha=--"]), (sweep.main, ["--alpha=--"]),
    (sweep.main, ["--seeds", "9" * 5000]), (reproduce.main, ["table1", "--dataset", "digits", "--awp=-inf"])])
def test_command_lines(main, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run_cli(lambda: main(line))
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("atlas_fast: error: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
