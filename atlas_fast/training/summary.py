"""The end of a run: the test set, measured once with the best weights."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from ..attacks import PGD
from ..errors import Interrupted, UserError
from . import checkpoint, logs
from .defaults import TEST_STEPS
from .files import write_json
from .loop import best_epoch, method_name
from .setup import Run
from .stopping import Stopping
from .validation import measure


def finish(run: Run, out: Path) -> dict:
    """Clean and PGD-20 accuracy of best.safetensors on the test images (float32, eval mode); writes summary.json.

    overfitting_epochs: at which catastrophic overfitting set in (`overfitting.Watch`), [] for a run without; rewinds:
    what --on-overfitting rewind did; not_finite_steps: steps whose loss or gradient was not finite.
    Interrupted: SIGINT or SIGTERM; nothing is lost but the test.
    """
    try:
        with Stopping(run.ranks.size == 1) as stopping, stopping.at_once():
            return _tested(run, out)
    except KeyboardInterrupt as error:
        raise Interrupted(f"the training is over and saved, but not its test; --resume --out {out} does it",
                          getattr(error, "number", signal.SIGINT)) from None


def _tested(run: Run, out: Path) -> dict:
    if run.ranks.leads:
        checkpoint.load_weights(out / checkpoint.BEST, run.model)
    run.ranks.follow_first(run.model.state_dict().values())
    config, lines = run.config, logs.read(out / "log.jsonl")
    attack = PGD(config.eps, config.val_step_size, TEST_STEPS)
    measured = measure(run.model, run.data.test_images, run.data.test_labels, attack, run.device,
                       objective=run.step.objective, ranks=run.ranks)
    summary = {
        "dataset": config.dataset, "method": config.method, "steps": config.steps, "model": config.model,
        "n": len(run.data.test_labels), "clean_accuracy": measured["clean_accuracy"],
        "attacks": {f"pgd-{TEST_STEPS}": {"robust_accuracy": measured["robust_accuracy"],
                                          "settings": attack.settings}},
        "jacobian_norm": measured["jacobian_norm"],
        "best_epoch": best_epoch(run), "epochs": run.schedule.epoch,
        "overfitting_epochs": run.watch.onsets, "rewinds": run.rewinder.changes,
        "not_finite_steps": run.tally.total,
        "training_seconds": sum(line["seconds"] for line in lines), "seed": config.seed}
    if run.ranks.leads:
        write_json(out / "summary.json", summary)
    return summary


def read_summary(out: Path) -> dict:
    try:
        return json.loads((out / "summary.json").read_text())
    except ValueError as error:
        raise UserError(f"{out / 'summary.json'} is not a summary; delete it and --resume measures again") from error


def table(summaries: list[dict]) -> str:
    """The summaries as a table, a line each."""
    name = f"pgd-{TEST_STEPS}"
    settings = summaries[0]["attacks"][name]["settings"]
    rows = [f"test set, n = {summaries[0]['n']}; {name.upper()}: eps {settings['eps']:.4g}, step "
            f"{settings['step_size']:.4g}", f"{'':<20}{'clean':>9}{name.upper():>9}{'epochs':>9}{'seconds':>9}"]
    rows += [f"{method_name(s['method'], s['steps']):<20}{s['clean_accuracy']:>9.2%}"
             f"{s['attacks'][name]['robust_accuracy']:>9.2%}{s['epochs']:>9}{s['training_seconds']:>9.1f}"
             for s in summaries]
    return "\n".join(rows)
