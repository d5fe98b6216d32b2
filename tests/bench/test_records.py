"""Records are merged row by row and keep where each row was measured; the small tools that make them."""

import json
from types import SimpleNamespace

import pytest

from atlas_fast.engine import Ranks
from atlas_fast.ops._registry import triton_module
from bench import bench_norm_relu_plans as plans
from bench import convolutions, epoch, harness, ranks, step, work, workload
from bench.work import Convolution


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    return tmp_path


def test_rows_replace_their_like_and_leave_the_others(results, monkeypatch):
    here = {"commit": "one"}
    monkeypatch.setattr(harness, "environment", lambda device: dict(here))
    harness.save("step", "cpu", [{"model": "a", "batch": 1, "ms": 1.0}, {"model": "a", "batch": 2, "ms": 2.0}],
                 ("model", "batch"))
    here["commit"] = "two"
    path = harness.save("step", "cpu", [{"model": "a", "batch": 2, "ms": 3.0}], ("model", "batch"))
    record = harness.load(path)
    commits = {row["batch"]: (row["ms"], record["environments"][row["environment"]]["commit"])
               for row in record["rows"]}
    assert path == results / "step-cpu.json" and commits == {1: (1.0, "one"), 2: (3.0, "two")}
    harness.save("step", "cpu", [{"model": "a", "batch": 1, "ms": 4.0}], ("model", "batch"))
    assert [e["commit"] for e in harness.load(path)["environments"].values()] == ["two"]  # nothing refers to "one" now


def test_a_record_with_one_environment_is_read(tmp_path):
    path = tmp_path / "operations-cpu.json"
    path.write_text(json.dumps({"environment": {"commit": "x"}, "rows": [{"operation": "a", "size": "b"}]}))
    record = harness.load(path)
    (mark,) = record["environments"]
    assert record["rows"] == [{"operation": "a", "size": "b", "environment": mark}]


def test_all_records_of_the_repository_name_their_commit_and_machine():
    files = sorted((harness.FOLDER / "results").glob("*.json"))
    assert files
    for path in files:
        record = harness.load(path)
        for row in record["rows"]:
            environment = record["environments"][row["environment"]]
            assert environment["commit"] and environment["torch"] and environment["processor"], path


def test_without_git_nothing_names_the_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert harness.commit() == ""


def test_markdown():
    table = harness.markdown([{"a": 1234.5, "b": None, "c": 0.123456, "d": "x"}], ["a", "b", "c", "d", "e"])
    assert table.splitlines()[-1] == "| 1234 |  | 0.123 | x |  |"


def test_interleaved_takes_turns():
    order = []
    ms = harness.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3,
                             target_ms=1e-9)
    assert set(ms) == {"a", "b"} and order == ["a", "a", "b", "b"] + ["a", "b"] * 4


def test_step_command(results, capsys):
    rows = step.main(["--models", "small_cnn", "--methods", "atlas", "jac", "--batch-sizes", "4", "--device", "cpu",
                      "--rounds", "1", "--target-ms", "1", "--threads", "1", "--variants", "sweeps*float32"])
    assert {(r["method"], r["variant"]) for r in rows} >= {
        ("atlas", "PyTorch float32"), ("atlas", "sweeps float32"), ("jac", "sweeps float32")}
    assert not any("autograd" in r["variant"] for r in rows)
    saved = harness.load(results / "step-cpu.json")["rows"]
    assert [tuple(r[k] for k in step.KEY) for r in saved] == [tuple(r[k] for k in step.KEY) for r in rows]
    needed = work.flops(workload.workload("jac").objective, workload.network("small_cnn"), (4, 1, 28, 28))
    for row in rows:
        base = next(r for r in rows if r["method"] == row["method"] and r["variant"] == "PyTorch float32")
        assert row["ratio"] == pytest.approx(base["ms"] / row["ms"])
        assert row["images/s"] == pytest.approx(4e3 / row["ms"])
        if row["method"] == "jac":
            assert row["TFLOP/s"] == pytest.approx(needed / row["ms"] / 1e9)
    assert "| small_cnn | jac | 4 | sweeps float32 |" in capsys.readouterr().out


def test_a_variant_that_cannot_run_costs_only_its_own_row(monkeypatch):
    true_build = step.build

    def build(variant, *arguments):
        if variant.engine == "autograd":
            raise RuntimeError("out of luck\nsecond line")
        return true_build(variant, *arguments)

    monkeypatch.setattr(step, "build", build)
    found = step.measure(workload.workload("adv"), "small_cnn", 2, "cpu", step.chosen("cpu", None), 1, 1.0)
    assert found["autograd float32"] == {"note": "RuntimeError: out of luck"}
    assert found["sweeps float32"]["ms"] > 0


@pytest.mark.parametrize("name", ["mart", "jac-2", "atlas-0", "atlas-x"])
def test_unknown_methods_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        workload.workload(name)
    assert name in capsys.readouterr().out


def test_epoch_runs_as_many_bare_steps(results, monkeypatch):
    seen = []
    true_measure = epoch.measure

    def measure(run, device, rounds):
        made = true_measure(run, device, rounds)
        seen.append(run.step.state_dict()["step"])
        return made

    monkeypatch.setattr(epoch, "measure", measure)
    row = epoch.main(["--images", "20", "--model", "small_cnn", "--batch-size", "4", "--device", "cpu", "--rounds", "2",
                      "--threads", "1"])
    assert row["batches"] == 5 and row["ratio"] > 0 and row["data ms"] < row["epoch ms"]
    assert seen == [2 * 5 + 1]  # two epochs of the trainer's own steps, and the warm-up


LAYER = Convolution(8, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, (8, 8), False)


def test_the_sum_over_a_step_takes_the_cheapest_batches():
    table = {(LAYER, operation, n): ms for operation, times in (
        ("forward", {4: 1.0, 8: 1.5}), ("input gradient", {4: 2.0, 8: 5.0}), ("weight gradient", {4: 3.0, 12: 4.0}))
        for n, ms in times.items()}
    need = work.passes(workload.workload("atlas").objective)  # 4 forward, 4 input gradients, 3 weight gradients
    assert convolutions.step_ms(table, {LAYER: 2}, need, 4) == 2 * ((1.5 + 2.0) + 4 * 2.0 + 4.0)
    del table[LAYER, "forward", 4]
    assert convolutions.step_ms(table, {LAYER: 2}, need, 4) is None


def test_every_convolution_of_a_network_is_measured_as_it_is_used():
    model = workload.network("wrn-10-1")
    counts = work.convolutions(model, (2, 3, 32, 32))
    assert sum(counts.values()) == 9 and [c.first for c in counts].count(True) == 1
    for c in counts:
        x, weight, g = convolutions.tensors(c, 2, "cpu")
        assert convolutions.call("forward", c, x, weight, g)().shape == g.shape
        assert convolutions.call("input gradient", c, x, weight, g)()[0].shape == x.shape
        assert convolutions.call("weight gradient", c, x, weight, g)()[1].shape == weight.shape


def test_ranks_take_turns_in_every_variant(capsys):
    found = ranks.measure("wrn-10-1", "adv", 2, 1, Ranks.alone())
    assert list(found) == ["one", "together", "together, sync", "apart"] and all(ms > 0 for ms in found.values())
    assert "together, sync" not in ranks.steps("small_cnn", "adv", 2, Ranks.alone())
    assert ranks.main(["--models", "small_cnn", "--batch-sizes", "3"]) == 2
    assert "a multiple of 2" in capsys.readouterr().out


def test_launch_plans_are_kept_apart_and_one_that_fails_costs_only_its_row(monkeypatch):
    """The default and the changes of one field, on a made-up benchmark without a GPU."""
    pytest.importorskip("triton")
    norm, seen = triton_module("_norm"), []

    def case(size, device):
        if norm.PLAN.warps == 16:
            raise RuntimeError("out of resources")
        return {"atlas_fast": norm.PLAN.warps}

    monkeypatch.setattr(plans, "PASSES", {"norm_relu": (SimpleNamespace(case=case), {"small": (1, 2, 3, 4)}, 5)})
    monkeypatch.setattr(harness, "interleaved", lambda variants, device: {k: v * 1e-3 for k, v in variants.items()})
    rows = plans.measure(["norm_relu"], ["warps"], lambda rows: seen.append(len(rows)))
    assert {row["plan"]: row.get("us", row.get("note")) for row in rows} == {
        "default": 8.0, "warps 4": 4.0, "warps 16": "out of resources"} and seen == [3] and norm.PLAN == norm.Plan()
