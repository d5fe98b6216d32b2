"""--log tensorboard: TensorBoard reads from the event files what log.jsonl holds, once, also after an interruption."""

import json
import sys

import pytest
from PIL import Image

import atlas_fast.training.loop as loop
from atlas_fast import train
from atlas_fast.errors import UserError
from atlas_fast.training import curves, read_config
from atlas_fast.training.saving import Saver


@pytest.fixture(scope="module")
def accumulator():
    """accumulator(folder): all that TensorBoard itself reads from the folder of a run."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder):
        read = module.EventAccumulator(str(folder / "tensorboard"), size_guidance=dict.fromkeys(
            (module.SCALARS, module.TENSORS, module.IMAGES), 0))
        return read.Reload()

    return read


def points(events, tag):
    return [(point.step, point.value) for point in events.Scalars(tag)]


def text(events, tag):
    """The last text under this tag, and its step."""
    event = events.Tensors(f"{tag}/text_summary")[-1]
    return json.loads(event.tensor_proto.string_val[0]), event.step


def assert_like_the_log(events, lines):
    tags = {"lr": "schedule/lr", "eps": "schedule/eps", "loss": "training/loss", "ce": "training/ce",
            "kl": "training/kl", "jacobian": "training/jacobian", "not_finite_steps": "training/not_finite_steps",
            "clean_accuracy": "validation/clean_accuracy", "robust_accuracy": "validation/robust_accuracy",
            "adversary_accuracy": "validation/adversary_accuracy", "fgsm_accuracy": "validation/fgsm_accuracy",
            "jacobian_norm": "validation/jacobian_norm", "overfitted": "validation/overfitted",
            "seconds": "time/seconds", "ms_per_batch": "time/ms_per_batch"}
    assert set(tags) == set(lines[0]) - {"epoch"}
    for name, tag in tags.items():
        expected = [(line["epoch"], pytest.approx(float(line[name]), rel=1e-6)) for line in lines]
        assert points(events, tag) == expected, tag


def test_what_tensorboard_reads(accumulator, small_run, read_log, monkeypatch):
    monkeypatch.setattr(curves, "draw", lambda lines, path, *rest: Image.new("RGBA", (9, 5)).save(path, "png"))
    folder = small_run("--epochs", "3", "--max-batches", "2", "--log", "tensorboard")
    events, summary = accumulator(folder), json.loads((folder / "summary.json").read_text())
    assert_like_the_log(events, read_log(folder))
    assert points(events, "test/clean_accuracy") == [(3, pytest.approx(summary["clean_accuracy"]))]
    robust = summary["attacks"]["pgd-20"]["robust_accuracy"]
    assert points(events, "test/robust_accuracy") == [(3, pytest.approx(robust))]
    assert text(events, "settings") == (json.loads((folder / "config.json").read_text()), 0)
    assert text(events, "summary") == (summary, 3)
    (image,) = events.Images("curves")
    assert (image.width, image.height, image.step) == (9, 5, 3)
    from tensorboard.plugins.hparams import metadata

    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    started = metadata.parse_session_start_info_plugin_data(content)
    assert started.hparams["alpha"].number_value == read_config(folder)[0].alpha
    assert started.hparams["method"].string_value == "atlas" and "image_size" not in started.hparams
    assert events.SummaryMetadata(metadata.SESSION_END_INFO_TAG)


def test_a_resumed_run_has_no_point_twice(accumulator, small_run, read_log, monkeypatch, tmp_path):
    save = Saver.save

    def dies(saver, inside=None):  # the third epoch is in the log and in the event files, not in the checkpoint
        if saver.run.schedule.epoch == 3:
            raise KeyboardInterrupt
        save(saver, inside)

    options = ("--epochs", "4", "--max-batches", "2", "--log", "tensorboard")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Saver, "save", dies)
        small_run(*options)
    folder = tmp_path / "run"
    assert [step for step, _ in points(accumulator(folder), "training/loss")] == [1, 2, 3]
    assert train.main(["--resume", "--out", str(folder)]) == 0
    events = accumulator(folder)
    assert_like_the_log(events, read_log(folder))
    assert [step for step, _ in points(events, "test/clean_accuracy")] == [4]
    assert len(events.Tensors("settings/text_summary")) == 1


def test_a_run_that_is_logged_from_its_middle_on_gets_its_beginning_too(accumulator, small_run, read_log, monkeypatch,
                                                                        tmp_path):
    one_epoch = loop.one_epoch

    def interrupted(run, *others):
        if run.schedule.epoch == 1:
            raise KeyboardInterrupt
        return one_epoch(run, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "one_epoch", interrupted)
        small_run("--epochs", "2", "--max-batches", "1")
    folder = tmp_path / "run"
    assert not (folder / "tensorboard").exists()
    assert train.main(["--resume", "--out", str(folder), "--log", "tensorboard"]) == 0
    assert_like_the_log(accumulator(folder), read_log(folder))


def test_without_the_package_nothing_begins(small_run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="needs the package tensorboard .*: pip install tensorboard"):
        small_run("--log", "tensorboard")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="--log must be one of none, tensorboard"):
        small_run("--log", "wandb")


def test_files_that_cannot_be_written_end_the_run_with_a_sentence(small_run, monkeypatch, tmp_path):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "flush", full)
    with pytest.raises(UserError, match="event files in .*tensorboard could not be written .No space left"):
        small_run("--epochs", "1", "--max-batches", "1", "--log", "tensorboard")
