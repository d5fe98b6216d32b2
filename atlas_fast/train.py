"""python -m atlas_fast.train: train a robust classifier by the paper's protocol (section 6, appendix B).

Options that are left away take the data set's defaults, so `--dataset cifar10 --steps 1` is the paper's one-step ATLAS.
The run's folder receives config.json, log.jsonl, last.pt, best.safetensors, curves.png and summary.json.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .data import NAMES, Dataset, loss_of_workers_reported
from .engine import Ranks
from .errors import ArgumentParser, UserError, run_cli
from .training import checkpoint, files, launch, loop, saving, settings_file, tensorboard
from .training.config import Config, differing, read_config, resolve
from .training.defaults import METHODS
from .training.lock import locked
from .training.setup import Run, describe, load_data, prepare
from .training.summary import finish, read_summary, table

RUN_FILES = ("config.json", "log.jsonl", *checkpoint.CHECKPOINTS, checkpoint.BEST, "summary.json")


def parser() -> ArgumentParser:
    p = ArgumentParser(prog="python -m atlas_fast.train", description=__doc__.split("\n")[0].split(": ", 1)[1],
                       epilog="Settings left away take the data set's defaults (the paper's, where it gives them).")
    what = p.add_argument_group("what")
    what.add_argument("--dataset", metavar="NAME", help=f"one of {', '.join(NAMES)} (default: digits)")
    what.add_argument("--data-dir", metavar="D", help="folder of the data set's files; npz: the file or its folder "
                                                      "(default: data)")
    what.add_argument("--image-size", type=int, metavar="PX", help="imagefolder: resize and crop to PX x PX")
    what.add_argument("--workers", type=int, metavar="N", help="imagefolder: decode the images while training, in N "
                                                               "processes (default: where they would fill more than "
                                                               "4 GiB, in as many as there are cores, at most 8)")
    what.add_argument("--method", metavar="NAME", help=f"one of {', '.join(METHODS)} (default: atlas)")
    what.add_argument("--steps", type=int, metavar="K", help="adversary in training: 1 FGSM, K > 1 PGD-K, 0 none (jac; "
                                                           "default: 1; mart: as in validation; llr: 10)")
    what.add_argument("--model", metavar="NAME", help="small_cnn, preact_resnet18, wrn-28-8 or any wrn-D-W, timm:NAME, "
                                                   "torchvision:NAME, or your own module:function")
    what.add_argument("--objective", metavar="M:F", help="instead of --method, your own module:function, called with "
                                                         "eps, steps, step_size; returns an objectives.Objective")
    loss = p.add_argument_group("loss")
    loss.add_argument("--epsilon", dest="eps", type=float, metavar="E", help="final L_inf radius, pixels in [0,1]")
    loss.add_argument("--step-size", type=float, metavar="S", help="of the training adversary, pixels in [0,1] "
                                                                   "(default: 1.25 eps for one step, else the data "
                                                                   "set's; n_fgsm, nuat, grad_align: eps)")
    loss.add_argument("--alpha", type=float, metavar="A", help="weight of the Jacobian term; grad_align, llr: their "
                                                               "lambda")
    loss.add_argument("--beta", type=float, metavar="B", help="weight of the KL term; nuat: of the nuclear norm; "
                                                              "llr: its mu")
    loss.add_argument("--noise", type=float, metavar="K", help="n_fgsm: start uniform within K eps (default: 2)")
    loss.add_argument("--num-projections", type=int, metavar="P", help="random projections a sample (default: 1)")
    loss.add_argument("--label-smoothing", type=float, metavar="L", help="of the cross-entropy (default: 0)")
    loss.add_argument("--replays", type=int, metavar="M", help="free: updates on each batch (default: 8, with as many "
                                                               "times fewer epochs)")
    loss.add_argument("--passes", type=int, metavar="M", help="yopo: full passes, each with --steps steps on the first "
                                                              "layer (default: 5)")
    loss.add_argument("--tau", type=int, metavar="T", help="fat: steps after the first misclassified iterate (default: "
                                                           "0, later 1 and 2)")
    loss.add_argument("--omega", type=float, metavar="W", help="fat: noise of each step, pixels in [0,1] (default: "
                                                               "0.001)")
    how = p.add_argument_group("training")
    how.add_argument("--epochs", type=int, metavar="N", help="at most; the schedule may end earlier")
    how.add_argument("--batch-size", type=int, metavar="B", help="images a step, of all processes together")
    how.add_argument("--accumulate", type=int, metavar="N", help="work each batch off in N equal parts, in the memory "
                                                                 "of one (BatchNorm's statistics are a part's)")
    how.add_argument("--lr", type=float, metavar="L")
    how.add_argument("--momentum", type=float, metavar="M")
    how.add_argument("--weight-decay", type=float, metavar="W")
    how.add_argument("--ramp-epochs", type=float, metavar="R", help="eps is final after R epochs (default: "
                                                                    "min(15, epochs/2); llr 1.28; n_fgsm, mart, "
                                                                    "grad_align 0; nuat: its weight is)")
    how.add_argument("--plateau-epochs", type=int, metavar="P", help="epochs without improvement before the learning "
                                                                     "rate is divided by 5 (default: 2)")
    how.add_argument("--schedule", metavar="S", help="guided: the validation lowers the learning rate and ends the "
                                                     "training (default); fixed: the rate falls tenfold after 55, 75 "
                                                     "and 90%% of the epochs")
    how.add_argument("--validation-size", type=int, metavar="N", help="random training images (default: 5,000, or a "
                                                                      "tenth of a small set)")
    how.add_argument("--augment", metavar="A", help="crop-flip, none or, for imagefolder, resized-crop (a random "
                                                     "crop of 8 to 100%% of each image, flipped or not; default: "
                                                     "crop-flip for cifar10 and cifar100)")
    how.add_argument("--bn-mode", metavar="M", help="BatchNorm while crafting: train or eval (default: train)")
    how.add_argument("--sync-bn", metavar="S", help="torchrun: BatchNorm normalises the batch of all processes, as one "
                                                    "would: on or off (default: off, each its part)")
    how.add_argument("--awp", type=float, metavar="G", help="adversarial weight perturbation of relative size G (its "
                                                            "authors: 0.01; with trades 0.005)")
    how.add_argument("--awp-warmup", type=int, metavar="N", help="epochs before it begins (default: 0)")
    how.add_argument("--ema", type=float, metavar="D", help="validate and keep an average of the weights with decay D, "
                                                            "e.g. 0.999")
    how.add_argument("--on-overfitting", metavar="DO", help="when catastrophic overfitting sets in: continue "
                                                            "(default), stop, or rewind to the best epoch with "
                                                            "a larger alpha")
    how.add_argument("--max-batches", type=int, metavar="N", help="at most N batches in each epoch, in its validation "
                                                              "and in the test, for trials")
    how.add_argument("--baseline", action="store_true", help="also train the same network plainly, into OUT/plain, and "
                                                             "print both results")
    where = p.add_argument_group("execution")
    where.add_argument("--engine", metavar="E", help="auto, sweeps or autograd (default: auto, the fastest valid one)")
    where.add_argument("--capture", metavar="C", help="the step as one CUDA graph: auto (default), on or off")
    where.add_argument("--checkpoint-activations", action="store_true", default=None,
                       help="compute activations again rather than keep them: less memory, more time")
    where.add_argument("--amp", metavar="A", help="auto, bf16, fp16 (with a loss scale, for GPUs without bf16) or off "
                                                  "(default: auto, bf16 on a GPU that has it)")
    where.add_argument("--seed", type=int, metavar="S", help="of weights, split, order, noise (default: 0)")
    where.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N (default: auto)")
    where.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/DATASET-METHOD-STEPS)")
    where.add_argument("--log", metavar="L", help="tensorboard: event files in OUT/tensorboard too (default: none; "
                                                  "log.jsonl is always written)")
    where.add_argument("--config", metavar="FILE", help="settings for what is not given here: a run's config.json")
    where.add_argument("--save-minutes", type=float, metavar="M", help="save after so many minutes of a long epoch as "
                                                                       f"well (default: {saving.MINUTES:.0f})")
    where.add_argument("--resume", action="store_true", help="go on with the run in --out; its settings need not be "
                                                             "given again (torchrun --max-restarts: or begin it)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Train, and print the test result. UserError: wrong use; nothing has then been written or changed."""
    with launch.launched() as ranks:
        return train(argv, ranks)


def train(argv: list[str] | None, ranks: Ranks) -> int:
    """`main`, as one of these processes."""
    given, validation = vars(parser().parse_args(argv)), dict[str, Any]()
    file = given.pop("config")
    if file is not None:
        given, validation = settings_file.merge(Path(file), parser(), given)
    out, resume, baseline = given.pop("out"), given.pop("resume"), given.pop("baseline")
    minutes = saving.check_minutes(given.pop("save_minutes"))
    if resume and out and launch.may_restart() and not holds(Path(out)):
        resume = False  # torchrun repeats the first start's command, which so names --resume before there is a run
    if resume and out:
        config = resumed({**given, **validation}, Path(out))
    else:
        config = replace(resolve(given), **validation)
    out = Path(out or f"runs/{config.dataset}-{config.method}-{config.steps}")
    if resume:
        config = resumed({**given, **validation}, out)
    if baseline and config.method == "plain":
        raise UserError("--baseline compares a method with plain training; --method plain is that already")
    launch.check_device(config.device, ranks)
    dataset = load_once(config, ranks)
    summaries = [run(config, out, resume, dataset, ranks, minutes)]
    if baseline:
        without: dict[str, Any] = dict.fromkeys(("objective", "alpha", "beta", "noise", "replays", "passes", "tau",
                                                 "omega", "awp", "awp_warmup"))
        plain = replace(config, method="plain", steps=0, ramp_epochs=0.0, num_projections=1, on_overfitting="continue",
                        **without)
        folder = out / "plain"
        summaries.append(run(plain, folder, resume and (folder / "config.json").exists(), dataset, ranks, minutes))
    if ranks.leads:
        print(f"\n{table(summaries)}\n{out}")
    return 0


def resumed(given: dict, out: Path) -> Config:
    """The settings of the run in `out`. UserError: there is none, or an option differs from them."""
    old, _ = read_config(out)
    if not saved(out) and holds(out) != ["config.json"]:  # that alone: it was killed before the first step
        raise UserError(f"{out} holds no last.pt to resume from; remove the folder and start anew")
    moved = {name: given[name] for name in ("data_dir", "device") if given.get(name) is not None}
    changed = {name: value for name, value in given.items() if value is not None and name not in moved}
    new = replace(old, **changed, **{k: v for k, v in moved.items() if k == "data_dir"})
    if names := differing(old, new):
        pairs = ", ".join(f"{name} ({getattr(old, name)}, now {getattr(new, name)})" for name in names)
        raise UserError(f"the run in {out} was started with other settings: {pairs}; "
                        "leave them away to resume it, or choose another --out")
    device = resolve({"device": moved.get("device", old.device)}).device
    return replace(new, device=device)


def run(config: Config, out: Path, resume: bool, dataset: Dataset, ranks: Ranks,
        minutes: float = saving.MINUTES) -> dict:
    """One network: trained, tested, its folder complete. Returns summary.json."""
    if not resume:
        refuse_existing(out)
    tensorboard.check(config)
    job = prepare(config, dataset, ranks)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    if resume and (out / "summary.json").exists():
        if ranks.leads:
            print(f"{out} is finished already")
        return read_summary(out)
    trained = resume and saved(out)
    ranks.wait(job.device)  # the others have looked into the folder too
    if ranks.leads and not resume:
        files.make_folder(out)
    with locked(out) if ranks.leads else contextlib.nullcontext():
        if ranks.leads:
            begin(job, out, resume)
        with tensorboard.events(job, out) as events:
            with loss_of_workers_reported():
                loop.train(job, out, trained, minutes, events)
            summary = finish(job, out)
            events.end(summary)
        return summary


def begin(job: Run, out: Path, resume: bool) -> None:
    """Write config.json if it is not there already, and say what begins."""
    facts = describe(job)
    if not resume:
        refuse_existing(out)  # again: another process may have begun a run a moment ago
        files.write_json(out / "config.json", facts)
    print(f"{loop.title(job)} ({facts['weights']:,} weights): {facts['n_train']:,} training, "
          f"{facts['n_validation']:,} validation, {facts['n_test']:,} test images {facts['images_held']}; "
          f"{facts['device_name']}, {job.precision}; {out}", flush=True)


def load_once(config: Config, ranks: Ranks) -> Dataset:
    """The data set; the first process loads it before the others do, so that one of them downloads."""
    dataset = load_data(config) if ranks.leads else None
    ranks.wait(torch.device(config.device))
    return dataset or load_data(config)


def holds(out: Path) -> list[str]:
    """The files of a run that lie in `out`."""
    return [name for name in RUN_FILES if (out / name).exists()]


def saved(out: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any((out / name).is_file() for name in checkpoint.CHECKPOINTS)


def refuse_existing(out: Path) -> None:
    found = holds(out)
    if found:
        raise UserError(f"{out} holds a run already ({found[0]}); add --resume to go on with it, "
                        "or choose another --out")


if __name__ == "__main__":
    run_cli(main)
