"""torch.compile's best: a whole step in formulations that it can compile, as the baseline of `bench.step`.

    python -m bench.compiled_step --model wrn-28-8 --method atlas --batch-size 64 [--device auto] [--record FILE]

A compiled module cannot be differentiated twice ("torch.compile with aot_autograd does not currently support double
backward"), and BatchNorm's buffers cannot be written inside torch.func's transforms. So the network becomes a function
of its parameters that returns the batch statistics, the Jacobian is `torch.func.vjp`, and what is compiled is the
whole loss (`vjp`: the gradient is taken by autograd outside) or its gradient (`grad`: `torch.func.grad` inside).
Methods without a Jacobian also run plain code around a compiled module (`module`). Each is timed in the default mode
and in max-autotune-no-cudagraphs, as it is and (CUDA) captured by hand in a graph with its optimiser.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.func import functional_call

from bench import harness, reference_step
from bench.reference_step import ROWS, kl, points
from bench.workload import EPS, Workload, batch, network, sgd, workload


def batch_norm(x, weight, bias, eps):
    """(normalised x, mean, unbiased variance) of a batch; in float32 where x is bf16."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    scale = (variance + eps).rsqrt() * weight
    out = (wide - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]
    n = x.numel() // x.shape[1]
    return out.to(x.dtype), mean, variance * (n / (n - 1))


def functional(model: nn.Module) -> tuple[fx.GraphModule, list[nn.BatchNorm2d]]:
    """A network without side effects: images -> (logits, ((mean, variance), ...)), and whose statistics they are."""
    traced, layers, statistics = fx.symbolic_trace(model), [], []
    graph = traced.graph
    for node in list(graph.nodes):
        layer = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.BatchNorm2d):
            with graph.inserting_before(node):
                arguments = [graph.get_attr(f"{node.target}.{name}") for name in ("weight", "bias")]
                made = graph.call_function(batch_norm, (node.args[0], *arguments, layer.eps))
                out, mean, variance = (graph.call_function(_item, (made, i)) for i in range(3))
            node.replace_all_uses_with(out)
            graph.erase_node(node)
            layers.append(model.get_submodule(node.target))
            statistics.append((mean, variance))
        elif node.op == "output":
            node.args = ((node.args[0], tuple(statistics)),)
    traced.recompile()
    return traced, layers


def _item(values, i):
    return values[i]


class Step:
    """A whole optimisation step around a compiled function. formulation: "grad", "vjp" or "module".

    compile: torch.compile's keywords. The result of a call is the loss; gradients stay in the parameters' .grad.
    """

    def __init__(self, load: Workload, model: nn.Module, optimizer, x, y, formulation: str, amp=None, **compile):
        self.load, self.model, self.optimizer, self.x, self.y, self.amp = load, model, optimizer, x, y, amp
        self.row, self.weights = ROWS[load.method], {"alpha": 0.0, "beta": 0.0, **load.weights}
        if formulation == "module":
            self.gradients, self.compiled = None, torch.compile(model, dynamic=False, **compile)
        else:
            self.net, self.layers = functional(model)
            function = {"grad": self._by_func_grad, "vjp": self._loss}[formulation]
            self.compiled = torch.compile(function, fullgraph=True, dynamic=False, **compile)
            self.gradients = self.compiled if formulation == "grad" else self._by_autograd

    def __call__(self):
        if self.gradients is None:
            return reference_step.step(self.load.method, self.compiled, self.optimizer, self.x, self.y, eps=EPS,
                                       step_size=self.load.step_size, steps=self.load.steps, amp=self.amp,
                                       **self.load.weights)
        start = (self.x + torch.empty_like(self.x).uniform_(-EPS, EPS)).clamp(0, 1)
        v = F.normalize(torch.randn(len(self.x), 10, device=self.x.device, dtype=self.x.dtype), dim=1)
        loss = self.accumulate(start, v)
        self.optimizer.step()
        return loss

    def accumulate(self, start, v):
        """.grad and running statistics of one step, from these random numbers; returns the loss."""
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        loss, gradients, statistics = self.gradients(parameters, self.x, self.y, start, v)
        for name, p in self.model.named_parameters():
            p.grad = gradients[name]
        self._update(statistics)
        return loss.detach()

    def _by_func_grad(self, parameters, x, y, start, v):
        gradients, (loss, statistics) = torch.func.grad(self._with_aux, has_aux=True)(parameters, x, y, start, v)
        return loss, gradients, statistics

    def _with_aux(self, *arguments):
        loss, statistics = self._loss(*arguments)
        return loss, (loss, statistics)

    def _by_autograd(self, parameters, x, y, start, v):
        leaves = {name: p.requires_grad_() for name, p in parameters.items()}
        loss, statistics = self.compiled(leaves, x, y, start, v)
        return loss, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)), statistics

    def _run(self, parameters, images):
        with self._autocast(images):
            logits, statistics = functional_call(self.net, parameters, (images,))
        return logits.to(self.x.dtype), statistics

    def _autocast(self, x):
        # The cache of cast weights would hand tensors of one transform's level to another.
        return torch.autocast(x.device.type, self.amp, cache_enabled=False) if self.amp else contextlib.nullcontext()

    def _adversary(self, parameters, x, y, start):
        parameters = {name: p.detach() for name, p in parameters.items()}
        clean = self._run(parameters, x)[0] if self.row[0] == "kl" else None

        def ascended(images):
            logits = self._run(parameters, images)[0]
            return F.cross_entropy(logits, y) if clean is None else kl(clean, logits)

        x_adv = start
        for _ in range(self.load.steps):
            moved = x_adv + self.load.step_size * torch.func.grad(ascended)(x_adv).sign()
            x_adv = torch.min(torch.max(moved, x - EPS), x + EPS).clamp(0, 1)
        return x_adv.detach()

    def _loss(self, parameters, x, y, start, v):
        ascends, ce_at, jacobian_at, pair = self.row
        images = {"x": x, "adv": self._adversary(parameters, x, y, start) if ascends else x}
        logits, statistics, penalty = {}, [], 0.0
        for point in points(self.load.method):
            if point == jacobian_at:
                logits[point], pull, seen = torch.func.vjp(lambda i: self._run(parameters, i), images[point],
                                                           has_aux=True)
                penalty = pull(v)[0].square().sum() * (v.shape[1] / len(x))
            else:
                logits[point], seen = self._run(parameters, images[point])
            statistics.append(seen)
        total = F.cross_entropy(logits[ce_at], y) + self.weights["alpha"] * penalty
        if pair is not None:
            total = total + self.weights["beta"] * kl(*(logits[point] for point in pair))
        return total, tuple(statistics)

    @torch.no_grad()
    def _update(self, statistics):
        """Running statistics after each training pass, x' before x."""
        for seen in statistics:
            for layer, (mean, variance) in zip(self.layers, seen, strict=True):
                layer.running_mean.lerp_(mean.detach(), layer.momentum)
                layer.running_var.lerp_(variance.detach(), layer.momentum)
                layer.num_batches_tracked += 1


def formulations(load: Workload) -> list[str]:
    return ["grad", "vjp"] if ROWS[load.method][2] is not None else ["module", "grad", "vjp"]


def measure(load: Workload, model_name: str, size: int, device: str, record: Callable[[str, dict], None],
            reference: bool = True, tuned: bool = True) -> None:
    """Every formulation, mode and capture; `record` gets each at once. tuned: `cudnn.benchmark`.

    reference: measure plain PyTorch in float32 beside each, for the ratio.
    """
    cuda = device == "cuda"
    model, (x, y) = network(model_name, device), batch(model_name, size, device)
    amp = torch.bfloat16 if cuda else None
    if cuda:
        torch.backends.cudnn.benchmark = tuned
    beside = {"reference": _reference(load, copy.deepcopy(model), x, y)} if reference else {}
    precision = "float32"
    if cuda:
        model, x, precision = *(t.to(memory_format=torch.channels_last) for t in (model, x)), "bf16 channels-last"
    for mode in ("default", "max-autotune-no-cudagraphs"):
        for formulation in formulations(load):
            name = f"torch.compile {formulation} {precision}" + (" max-autotune" if mode != "default" else "")
            torch._dynamo.reset()
            own = copy.deepcopy(model)
            step = Step(load, own, sgd(own), x, y, formulation, amp, mode=None if mode == "default" else mode)
            began = time.perf_counter()
            calls = {name: step}
            try:
                harness.warm_up(step, device)
                seconds = time.perf_counter() - began
                if not math.isfinite(float(step())):
                    raise ArithmeticError("the loss is not finite")
            except Exception as error:  # a formulation that this torch cannot compile; the others go on
                record(name, {"note": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]})
                continue
            if cuda:
                try:
                    calls[f"{name} graph"] = harness.captured(step)
                except Exception as error:
                    record(f"{name} graph", {"note": f"{type(error).__name__}: {str(error)[:200]}"})
                    torch.cuda.synchronize()
            ms = harness.interleaved({**beside, **calls}, device, 7, 100.0)
            for call in calls:
                record(call, {"ms": ms[call], "reference ms": ms.get("reference"), "first call s": seconds})


def _reference(load: Workload, model, x, y):
    optimizer = sgd(model)
    return lambda: reference_step.step(load.method, model, optimizer, x, y, eps=EPS, step_size=load.step_size,
                                       steps=load.steps, **load.weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wrn-28-8")
    parser.add_argument("--method", default="atlas")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, help="JSON file that holds what is done so far")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {}

    def record(name, values):
        found[name] = values
        print(name, values, flush=True)
        if args.record:
            harness.write_json(args.record, found)

    device = harness.choose_device(args.device)
    measure(workload(args.method), args.model, args.batch_size, device, record)


if __name__ == "__main__":
    main()
