"""Every file that is read: what was written, or a UserError; damaged bytes and values that make no sense."""

import gzip
import io
import json
import shutil
import struct
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from judging import check_number, counted, refused
from safetensors.torch import load, save
from strategies import damaged, json_values

import atlas_fast as af
from atlas_fast import data as data_sets
from atlas_fast import models, train
from atlas_fast.errors import UserError
from atlas_fast.evaluation.compare import comparison_table, side_by_side
from atlas_fast.evaluation.parts import Parts
from atlas_fast.evaluation.samples import load_npz, save_npz
from atlas_fast.reproduction import grid
from atlas_fast.training import checkpoint, settings_file
from atlas_fast.training.config import Config, read_config, resolve

data = st.data()


def loads_or_refuses(load):
    """What `load` returns, or None where it raises UserError."""
    try:
        return load()
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error).strip()[:500]
        return None


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def npz_bytes(write=np.savez, **arrays) -> bytes:
    buffer = io.BytesIO()
    write(buffer, **arrays)
    return buffer.getvalue()


def medmnist(n=6, **others) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    parts = {}
    for part in ("train", "test", "val"):
        parts[f"{part}_images"] = random.integers(0, 256, (n, 4, 4), dtype=np.uint8)
        parts[f"{part}_labels"] = np.arange(n) % 2
    return {**parts, **others}


NPZ = [npz_bytes(write, **medmnist()) for write in (np.savez, np.savez_compressed)]


@pytest.fixture(scope="session")
def whole_npz(folder):
    (folder / "whole.npz").write_bytes(NPZ[0])
    return data_sets.load("npz", folder / "whole.npz")


def same_data(found, wanted):
    names = ("train_images", "train_labels", "test_images", "test_labels")
    pairs = [(getattr(found, name), getattr(wanted, name)) for name in names]
    pairs += zip(found.val, wanted.val, strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@given(st.sampled_from(NPZ).flatmap(damaged))
@counted
def test_damaged_npz(folder, whole_npz, content):
    path = folder / "damaged.npz"
    path.write_bytes(content)
    found = loads_or_refuses(lambda: data_sets.load("npz", path))
    assert found is None or same_data(found, whole_npz)


DTYPES = ("u1", "i1", "<i8", ">i4", "u8", "f2", "<f4", ">f8", "g", "?", "c8", "U3", "S2", "O", "M8[s]", "m8[s]",
          [("a", "u1")])
SHAPES = ((), (0,), (6,), (6, 1), (6, 4, 4), (6, 4, 4, 1), (6, 4, 4, 3), (6, 4, 4, 9), (6, 4, 5), (6, 0, 0), (0, 4, 4),
          (7, 4, 4), (6, 1, 4, 4), (6, 3, 3))


@st.composite
def arrays(draw):
    """An array that may or may not serve as images or labels of `medmnist`."""
    shape, kind = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(("images", "labels", "zeros", "odd")))
    n = int(np.prod(shape))
    values = {"images": np.arange(n) % 7 / 7, "labels": np.arange(n) % 2, "zeros": np.zeros(n),
              "odd": np.resize([0, 1, np.nan, np.inf, -1, 2**63, 1e300], n)}[kind].reshape(shape)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = values.astype(np.dtype(draw(st.sampled_from(DTYPES))))
    if values.dtype.kind in "iu" and values.size and draw(st.booleans()):
        values.reshape(-1)[draw(st.integers(0, values.size - 1))] = draw(
            st.sampled_from((np.iinfo(values.dtype).max, np.iinfo(values.dtype).min, 1)))
    return np.asfortranarray(values) if draw(st.booleans()) else values


def expected_images(array):
    """As documented: uint8, or floats in [0, 1], square, 1 to 4 channels; None where they cannot be."""
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1] != array.shape[2] or not 1 <= array.shape[3] <= 4 or array.size == 0:
        return None
    if array.dtype != np.uint8:
        if array.dtype.kind != "f" or not (array >= 0).all() or not (array <= 1).all():
            return None
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def expected_labels(array, n):
    """Whole numbers [n] or [n, 1] from 0; None where they cannot be."""
    if array.dtype.kind not in "iu" or array.shape not in ((n,), (n, 1)) or n == 0:
        return None
    values = [int(value) for value in array.reshape(-1)]
    return torch.tensor(values) if 0 <= min(values) and max(values) < 2**31 else None


@given(st.sampled_from(sorted(medmnist())), arrays())
@example("test_labels", np.array([0, 1, 0, 1, 0, 2**64 - 1], dtype=np.uint64))
@example("train_images", np.zeros((6, 0, 0), dtype=np.float32))
@counted
def test_npz_of_any_arrays(folder, name, array):
    content = medmnist(**{name: array})
    path = folder / "arrays.npz"
    np.savez(path, **content)
    found = loads_or_refuses(lambda: data_sets.load("npz", path))
    images = {part: expected_images(content[f"{part}_images"]) for part in ("train", "test", "val")}
    labels = {part: expected_labels(content[f"{part}_labels"], 6) for part in ("train", "test", "val")}
    fits = all(images[part] is not None and labels[part] is not None and len(images[part]) == 6
               and images[part].shape[1:] == images["train"].shape[1:] and images[part].dtype == images["train"].dtype
               for part in images)
    fits = fits and set(labels["train"].tolist()) == {0, 1} and all(int(y.max()) < 2 for y in labels.values())
    assert (found is not None) == fits
    if fits:
        wanted = SimpleNamespace(
            **{f"{part}_{kind}": values[part] for part in ("train", "test")
               for kind, values in (("images", images), ("labels", labels))}, val=(images["val"], labels["val"]))
        assert same_data(found, wanted)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """(folder, its files): MNIST of 12 images."""
    pytest.importorskip("torchvision")
    root, random = tmp_path_factory.mktemp("mnist"), np.random.default_rng(1)
    files = {}
    for part, n in (("train", 12), ("t10k", 8)):
        files[f"{part}-images-idx3-ubyte"] = idx(random.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(n, dtype=np.uint8) % 10)
    (root / "MNIST" / "raw").mkdir(parents=True)
    return root, files


@pytest.fixture(scope="session")
def no_network():
    """Torchvision would download what is missing or has another checksum."""
    from torchvision.datasets import mnist as module

    def unreachable(*arguments, **keywords):
        raise RuntimeError("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "download_and_extract_archive", unreachable)
        yield


@given(data)
@counted
def test_damaged_idx(mnist, no_network, data):
    """Torchvision knows checksums of the archives only: headers, sizes and labels of the files are looked at here."""
    root, files = mnist
    name = data.draw(st.sampled_from(sorted(files)))
    content = data.draw(st.one_of(damaged(files[name]), damaged(files[name][:20]).map(lambda b: b + files[name][20:])))
    raw = root / "MNIST" / "raw"
    for other, whole in files.items():
        (raw / other).write_bytes(content if other == name else whole)
    found = loads_or_refuses(lambda: data_sets.load("mnist", root))
    if found is not None:
        for images, labels in ((found.train_images, found.train_labels), (found.test_images, found.test_labels)):
            assert images.dtype == torch.uint8 and images.shape == (len(labels), 1, 28, 28) and len(labels)
            assert labels.dtype == torch.int64 and 0 <= int(labels.min()) and int(labels.max()) < 10


@given(data)
@counted
def test_damaged_idx_archives(mnist, no_network, data):
    """Archives whose checksum torchvision does not know are never read."""
    root, files = mnist
    raw = root / "MNIST" / "raw"
    shutil.rmtree(raw)
    raw.mkdir()
    for name, whole in files.items():
        (raw / f"{name}.gz").write_bytes(data.draw(damaged(gzip.compress(whole))))
    assert loads_or_refuses(lambda: data_sets.load("mnist", root)) is None


STATE = {"format": checkpoint.FORMAT, "step": {"seed": 3, "step": 7}, "seconds": 1.5,
         "model": {"weight": torch.arange(12.0).view(3, 4), "bias": torch.ones(3)}}


@pytest.fixture(scope="session")
def whole_checkpoint(folder):
    checkpoint.save_last(folder / "whole.pt", {k: v for k, v in STATE.items() if k != "format"})
    return (folder / "whole.pt").read_bytes()


@given(data)
@counted
def test_damaged_checkpoint(folder, whole_checkpoint, data):
    path = folder / "damaged.pt"
    path.write_bytes(data.draw(damaged(whole_checkpoint)))
    found = loads_or_refuses(lambda: checkpoint.load_last(path))
    if found is not None:
        weights, wanted = found.pop("model"), STATE["model"]
        assert found == {k: v for k, v in STATE.items() if k != "model"} and weights.keys() == wanted.keys()
        assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def small_net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3), torch.nn.BatchNorm1d(3))


WEIGHTS = {name: value.clone() for name, value in small_net().state_dict().items()}
SAFETENSORS = save(WEIGHTS)


@given(st.one_of(damaged(SAFETENSORS), damaged(SAFETENSORS[:400]).map(lambda head: head + SAFETENSORS[400:])))
@example(SAFETENSORS.replace(b'"F32"', b'"I32"'))
@example(SAFETENSORS.replace(b'"I64"', b'"F64"'))
@counted
def test_damaged_safetensors(folder, content):
    """The format has no checksum: other numbers are read, other types are not."""
    path = folder / "damaged.safetensors"
    path.write_bytes(content)
    for read in (lambda: af.load(path, model=small_net()), lambda: loaded_weights(path)):
        model = loads_or_refuses(read)
        if model is not None:
            state = load(content)
            assert {name: (t.dtype, t.shape) for name, t in state.items()} == {
                name: (t.dtype, t.shape) for name, t in WEIGHTS.items()}
            assert all(torch.equal(value.nan_to_num(), state[name].nan_to_num())
                       for name, value in model.state_dict().items())


def loaded_weights(path):
    model = small_net()
    checkpoint.load_weights(path, model)
    return model


def odd_tensors(name):
    """What may stand in the place of a tensor of WEIGHTS."""
    good = WEIGHTS[name].float()
    return st.sampled_from((good.half(), good.double(), good.int(), good > 0, good.to(torch.complex64),
                            good.to_sparse(), good.to("meta"), good[..., None], good.flatten()[:0],
                            torch.zeros(()), good.to(torch.float8_e4m3fn), good * float("nan"),
                            torch.nn.Parameter(good), good.expand(2, *good.shape), None, 3, "text", [good],
                            {"a": good}))


@given(st.sampled_from(sorted(WEIGHTS)).flatmap(lambda name: st.tuples(st.just(name), odd_tensors(name))),
       st.sampled_from(("", "module.", "model.", "module.model.")), st.sampled_from((None, "state_dict", "model")),
       st.sampled_from((None, ("mu", "sigma"), ("normalize.mean", "normalize.std"))), data)
@counted
def test_state_dicts(folder, odd, prefix, wrapper, statistics, data):
    state = {prefix + key: value for key, value in {**WEIGHTS, odd[0]: odd[1]}.items()}
    if statistics:
        for name in statistics:
            ones = torch.ones(3)
            state[name] = data.draw(st.sampled_from((ones, ones.view(1, 3, 1, 1), 0 * ones, ones[:0], ones[:2],
                                                     ones * float("nan"), ones.int(), ones.to(torch.complex64),
                                                     ones.to("meta"))))
    torch.save(state if wrapper is None else {wrapper: state}, folder / "state.pt")
    model = loads_or_refuses(lambda: af.load(folder / "state.pt", model=small_net()))
    if model is None:
        return
    x = torch.rand(2, 3, 4, 4)
    assert model(x).shape == (2, 3)
    if statistics:
        state[statistics[0]] + state[statistics[1]]
        model = model.model
    for name, value in model.state_dict().items():
        given_value = torch.as_tensor(state[prefix + name])
        assert value.is_floating_point() == given_value.is_floating_point() and not given_value.is_complex()
        assert torch.equal(value.nan_to_num(), given_value.to(value.dtype).nan_to_num())


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run's folder, as `train` and `evaluate` leave it: (folder, config.json, evaluation.json)."""
    path = tmp_path_factory.mktemp("run")
    config = {**vars(resolve({"dataset": "digits", "device": "cpu"})), "num_classes": 10, "in_channels": 1,
              "image_pixels": 8, "classes": list("0123456789")}
    model = models.create("small_cnn", 10, 1, 8)
    (path / "best.safetensors").write_bytes(save({k: v.contiguous() for k, v in model.state_dict().items()}))
    (path / "config.json").write_text(json.dumps(config))
    attack = {"robust_accuracy": 0.5, "standard_error": 0.1, "interval_95": [0.4, 0.6], "n": 20,
              "settings": {"eps": 0.1, "steps": 20}, "seconds": 1.0}
    report = {"dataset": "digits", "n": 20, "clean_accuracy": 0.75, "clean_standard_error": 0.1, "images": "abc",
              "attacks": {"pgd-20": attack, "fgsm": attack}, "worst_case": {**attack, "attacks": ["pgd-20"]}}
    return path, config, report


@st.composite
def changed_json(draw, whole):
    """The text of `whole` with a value replaced, added or taken away at some depth, or with damaged bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged(json.dumps(whole).encode()))
    if draw(st.integers(0, 19)) == 0:
        return b"[" * 100_000
    copy = json.loads(json.dumps(whole))
    at = copy
    while True:
        key = draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or not at[key] or draw(st.booleans()):
            break
        at = at[key]
    kind = draw(st.sampled_from(("replace", "replace", "replace", "delete", "add")))
    if kind == "delete":
        del at[key]
    else:
        at["added" if kind == "add" else key] = draw(json_values)
    return json.dumps(copy).encode("utf-8", "surrogatepass")


@given(data)
@counted
def test_config_of_a_run(run, data):
    path, config, _ = run
    (path / "config.json").write_bytes(data.draw(changed_json(config)))
    model = loads_or_refuses(lambda: af.load(path))
    if model is not None:
        assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    read = loads_or_refuses(lambda: read_config(path))
    if read is not None:
        for name, kind in Config.__annotations__.items():
            value, *kinds = getattr(read[0], name), *kind.split(" | ")
            of = "None" if value is None else type(value).__name__
            assert of in kinds or (of == "int" and "float" in kinds), name
            assert not isinstance(value, float) or abs(value) < float("inf"), name


@given(data)
@counted
def test_config_option(run, data):
    """--config: the options that come out of the file are those that the command line would accept."""
    path, config, _ = run
    (path / "given.json").write_bytes(data.draw(changed_json(config)))

    def settings():
        given, validation = settings_file.merge(path / "given.json", train.parser(), {"seed": 1})
        for name in ("config", "out", "resume", "baseline"):
            given.pop(name, None)
        return resolve(given), validation

    found = loads_or_refuses(settings)
    if found is not None:
        assert isinstance(found[0], Config) and found[0].seed == 1
        assert all(value > 0 for value in found[1].values())


@given(data)
@counted
def test_evaluation_json(run, data):
    path, _, report = run
    for name, content in (("a.json", json.dumps(report).encode()), ("b.json", data.draw(changed_json(report)))):
        (path / name).write_bytes(content)
    found = loads_or_refuses(lambda: side_by_side([path / "a.json", path / "b.json"]))
    if found is not None:
        assert comparison_table(found) and len(found["runs"]) == 2
        for row in found["rows"]:
            for cell in filter(None, row["cells"]):
                assert 0 <= cell["accuracy"] <= 1 and cell["error"] >= 0 and cell["n"] >= 1


BATCH = {"broken": np.array([True, False, True]), "prediction": np.arange(3), "linf": np.ones(3, np.float32),
         "kept": np.array([0]), "adversaries": np.zeros((1, 1, 2, 2), np.float32), "warnings": np.array([], np.str_)}
BATCH_BYTES = npz_bytes(**BATCH)


@given(damaged(BATCH_BYTES))
@counted
def test_damaged_per_sample_results(folder, content):
    parts = Parts(folder / "parts", {"seed": 0})
    parts.begin("pgd-20", {})
    path = folder / "parts" / "pgd-20" / "0-3.npz"
    save_npz(path, BATCH)
    assert parts.load("pgd-20", 0, 3).keys() == BATCH.keys()
    path.write_bytes(content)
    for load_it in (lambda: load_npz(path, "results"), lambda: parts.load("pgd-20", 0, 3)):
        found = loads_or_refuses(load_it)
        if found is not None:
            assert all(np.array_equal(found[name], BATCH[name]) for name in found.keys() & BATCH.keys())
    (folder / "parts" / "fgsm").mkdir(exist_ok=True)
    (folder / "parts" / "fgsm" / "settings.json").write_bytes(content)
    loads_or_refuses(lambda: parts.check("fgsm", {}))


LIST = {"common": {"dataset": "digits", "epochs": 3}, "runs": [{"alpha": 0.1, "name": "a"}, {"alpha": 0.2, "awp": 0.1}]}


@given(data)
@counted
def test_list_of_a_sweep(folder, data):
    suffix = data.draw(st.sampled_from(("json", "toml")))
    content = data.draw(changed_json(LIST))
    if suffix == "toml":
        content = data.draw(damaged(b'[common]\ndataset = "digits"\n[[runs]]\nalpha = 0.1\nname = "a"\n'))
    (folder / f"list.{suffix}").write_bytes(content)
    found = loads_or_refuses(lambda: grid.read_list(folder / f"list.{suffix}"))
    assert found is None or all(isinstance(row, dict) for row in found)
    words = data.draw(st.lists(st.text("alphbet-=,.01e \0", max_size=12), min_size=1, max_size=3))
    found = loads_or_refuses(lambda: grid.product(words))
    assert found is None or all(isinstance(row, dict) for row in found)


@given(data)
@counted
def test_names_of_models(data):
    name = data.draw(st.one_of(
        st.text("wrn-0123456789:timvso_cn", max_size=14), st.sampled_from((
            "wrn-10-0", "wrn-10-1000000", "wrn-6000004-1", "wrn-10-" + "9" * 50, "wrn-10-" + "9" * 5000, "timm:", ":",
            "torchvision:", "os:getcwd", "math:sqrt", "a:", "json:", "..:x", "small_cnn ", "torchvision:resnet18 "))))
    with torch.device("meta"):
        found = loads_or_refuses(lambda: models.create(name, 10, 3, 32))
    assert found is None or isinstance(found, torch.nn.Module)
    wrong = data.draw(st.sampled_from((0, -1, 0.5, "3", None)))
    place = data.draw(st.integers(0, 2))
    sizes = [10, 3, 32]
    sizes[place] = wrong
    refused(lambda: models.create("small_cnn", *sizes))


def test_the_number_of_inputs(request):
    check_number(request)
