"""The orchestration of `bench.gpu`, with sections that end well, fail, hang, leave children behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench import children, gpu, harness, targets

ROOT = Path(harness.__file__).resolve().parent.parent


def section(name, code, cap=30.0, keep=0.0):
    return gpu.Section(name, cap, keep, (sys.executable, "-c", textwrap.dedent(code)))


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


HANGS = """
    import json, os, subprocess, sys, time
    kept = subprocess.Popen(["sleep", "100"])
    fled = subprocess.Popen(["sleep", "100"], start_new_session=True)
    open({pids!r}, "w").write(json.dumps([os.getpid(), kept.pid, fled.pid]))
    open({found!r}, "w").write(json.dumps({{"rows": [1, 2]}}))
    print("so far", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def hanging(tmp_path):
    pids = tmp_path / "pids"
    return section("hangs", HANGS.format(pids=str(pids), found=str(tmp_path / "hangs.json")), cap=6.0), pids


def test_a_hanging_section_is_ended_with_its_children_and_the_rest_runs(tmp_path, hanging, monkeypatch):
    hangs, pids = hanging
    states = []

    def write_json(path, value):
        true_write(path, value)
        states.append({name: s["end"] for name, s in json.loads(path.read_text())["sections"].items()})

    true_write = harness.write_json
    monkeypatch.setattr(harness, "write_json", write_json)
    sections = [hangs, section("fails", "raise SystemExit('no luck')"), section("works", "print('fine')"),
                gpu.Section("missing", 30, 0, ("/no/such/program",))]
    summary = json.loads(gpu.run_sections(sections, tmp_path, 60).path.read_text())
    ends = {name: s["end"] for name, s in summary["sections"].items()}
    assert ends["hangs"] == "stopped after 6 s" and ends["fails"] == "exit status 1" and ends["works"] == "done"
    assert ends["missing"].startswith("did not start")
    assert not any(alive(pid) for pid in json.loads(pids.read_text()))
    assert summary["sections"]["hangs"]["found"] == {"rows": [1, 2]}
    assert summary["sections"]["hangs"]["log"] == ["so far"]
    assert summary["sections"]["fails"]["log"] == ["no luck"] and (tmp_path / "works.log").read_text() == "fine\n"
    assert states[0]["hangs"] == "not started" and {"hangs": "running"}.items() <= states[1].items()


def test_what_a_section_finds_is_in_the_summary_while_it_runs(tmp_path, hanging):
    hangs, pids = hanging
    # A job in the background of a script inherits an ignored SIGINT.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"import sys; from bench import gpu; gpu.run_sections([{hangs!r}], gpu.Path({str(tmp_path)!r}), 120)"
    code = code.replace("Section(", "gpu.Section(").replace("cap=6.0", "cap=120.0")
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)

    def recorded():
        path = tmp_path / "summary.json"
        return path.is_file() and json.loads(path.read_text())["sections"]["hangs"].get("found") == {"rows": [1, 2]}

    try:
        assert wait_until(recorded, 90)
        run.send_signal(signal.SIGINT)  # Ctrl-C leaves what was found, and no process
        run.wait(20)
        assert recorded() and wait_until(lambda: not any(map(alive, json.loads(pids.read_text()))))
    finally:
        run.kill()


def test_later_sections_keep_their_time(tmp_path):
    first, second = section("first", "import time; time.sleep(60)", cap=50), section("second", "pass", keep=9.0)
    began = time.monotonic()
    summary = gpu.run_sections([first, second], tmp_path, 11.0).value["sections"]
    assert summary["first"]["allowed s"] <= 2.0 and summary["second"]["end"] == "done"
    assert time.monotonic() - began < 11
    late = gpu.run_sections([section("first", "pass", keep=0), section("second", "pass")], tmp_path, 0.5)
    assert late.value["sections"]["second"]["end"].startswith("not started")


def test_an_old_record_is_not_taken_for_a_new_one(tmp_path):
    (tmp_path / "works.json").write_text('{"rows": ["old"]}')
    assert "found" not in gpu.run_sections([section("works", "pass")], tmp_path, 30).value["sections"]["works"]


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().out.count("no CUDA device") == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {s["end"] for s in summary["sections"].values()} == {"no CUDA device"}
    assert list(summary["sections"]) == [s.name for s in gpu.SECTIONS]


def test_every_section_has_a_program():
    from bench import sections

    assert list(sections.ALL) == [s.name for s in gpu.SECTIONS]
    assert sum(s.keep for s in gpu.SECTIONS) + gpu.SECTIONS[0].cap <= 540


def test_children_end_with_whoever_runs_them(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    before = children.descendants(os.getpid())  # other tests' workers
    with pytest.raises(KeyboardInterrupt):
        children.run([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(50)"],
                     tmp_path / "log", 30, lambda: interrupt() if (tmp_path / "log").read_text() else None)
    assert not alive(int((tmp_path / "log").read_text()))
    assert set(children.descendants(os.getpid())) <= set(before)


STEP = {"model": "wrn-28-8", "batch": 64}


def summary(**found):
    return {"sections": {name: {"end": "done", "found": value} for name, value in found.items()}}


def test_targets():
    rows = [{**STEP, "method": "atlas", "variant": "PyTorch bf16 channels-last", "ms": 26.0},
            {**STEP, "method": "atlas", "variant": "sweeps bf16 channels-last graph", "ms": 12.0},
            {**STEP, "method": "atlas", "variant": "autograd bf16 channels-last", "ms": 20.0},
            {**STEP, "method": "atlas", "variant": "sweeps float32", "note": "OutOfMemoryError"},
            {**STEP, "method": "adv", "variant": "sweeps bf16 channels-last", "ms": 5.0},
            {**STEP, "batch": 128, "method": "atlas", "variant": "sweeps bf16 channels-last", "ms": 1.0}]
    lines = targets.verdicts(summary(
        steps={"rows": rows}, convolutions={"step ms": 8.0}, epoch={"ratio": 1.01}, reference={"rows": [rows[0]]},
        compile={"torch.compile grad": {"ms": 15.0}, "torch.compile vjp": {"note": "no"}},
        tests={"checked": "9 passed", "clean": True}, sanitizer={"why": "compute-sanitizer is not installed"}))
    assert [line["verdict"] for line in lines[:7]] == ["reached", "reached", "missed", "missed", "missed", "reached",
                                                       "reached"]
    assert lines[0]["measured"] == "12 ms (limit 12.4)" and lines[2]["measured"] == "15 ms / 12 ms = 1.25 x"
    assert lines[7]["verdict"] == "not measured: sanitizer: compute-sanitizer is not installed"


def test_targets_that_were_not_measured_say_why():
    stopped = summary(steps={"rows": []})
    stopped["sections"]["steps"]["end"] = "stopped after 130 s"
    lines = targets.verdicts(stopped)
    assert all(line["measured"] is None for line in lines)
    assert lines[0]["verdict"] == "not measured: steps: stopped after 130 s"
    assert lines[-1]["verdict"] == "not measured: sanitizer: the section was not asked for"
