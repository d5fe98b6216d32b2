"""A view of any nn.Module through PyTorch's autograd: the passes of a step by double backward."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attacks.checks import explained
from ..attacks.statistics import check_bn_mode, norm_layers, statistics_kept
from ..errors import UserError
from ..ops.jacobian_norm import project
from . import convolution
from .checkpoints import Checkpoints
from .known_gradient import KnownGradient
from .ranks import Ranks
from .shared_batch_norm import SharedBatchNorm, check_shared


class AutogradView:
    """model: images [N, C, H, W] -> logits [N, C]; bn_mode: BatchNorm while crafting, "train" or "eval".

    amp: None, or the dtype (torch.bfloat16) of autocast in the forward passes. Images stay float32. ranks: the
    processes that share the statistics of BatchNorm, each with an equal part of the batch, None: it has those of its
    own part. checkpoints: run the model's blocks again on the way back rather than keep their activations, but where a
    Jacobian penalty differentiates twice (`checkpoints`); UserError for a model without blocks.
    """

    def __init__(self, model, bn_mode: str = "train", amp: torch.dtype | None = None, ranks: Ranks | None = None,
                 checkpoints: bool = False):
        self.model, self.bn_mode, self.amp, self._ranks = model, check_bn_mode(bn_mode), amp, ranks
        self._checked = ranks is None
        self._norm_layers = norm_layers(model)
        self._crafting = False
        self._checkpoints = Checkpoints(model) if checkpoints else None

    def start(self) -> None:
        """The weights are those of a new step: nothing was kept of the last one."""

    @contextlib.contextmanager
    def crafting(self) -> Iterator[None]:
        """Inside, running statistics stay as they are and the forward passes are recorded for one backward only."""
        before, self._crafting = self._crafting, True
        try:
            with statistics_kept(self._norm_layers, self.bn_mode):
                yield
        finally:
            self._crafting = before

    def forward(self, images: dict[str, torch.Tensor], wrt: tuple[str, ...] = ()) -> Tape:
        """One pass per point, in the dict's order; `wrt`: points whose input gradient will be asked."""
        inputs = {point: x.detach().requires_grad_(point in wrt) for point, x in images.items()}
        device = next(iter(images.values())).device
        with torch.autocast(device.type, self.amp) if self.amp else contextlib.nullcontext():
            outputs = {point: self._pass(x) for point, x in inputs.items()}
        if not self._checked and not self._crafting:
            check_shared(outputs.values())
            self._checked = True
        return Tape(self.model, inputs, outputs)

    def _pass(self, x: torch.Tensor) -> torch.Tensor:
        """Only an input gradient outside of crafting may be differentiated again, by own convolutions and the plain
        attention. On a CPU some of the own convolutions are faster, too."""
        with contextlib.ExitStack() as inside:
            twice = x.requires_grad and not self._crafting
            if twice or (x.device.type == "cpu" and self._checkpoints is None):
                inside.enter_context(convolution.Convolutions(faster_only=not twice))
            if twice:
                # The fused attention kernels of PyTorch have no second derivative, its plain formula has.
                inside.enter_context(sdpa_kernel(SDPBackend.MATH))
            elif self._checkpoints is not None:
                inside.enter_context(self._checkpoints.applied(x.device))
            inside.enter_context(self.sharing())
            with explained(self.model, x):
                return self.model(x)

    def sharing(self) -> contextlib.AbstractContextManager:
        """Inside, BatchNorm takes its statistics as `ranks` says."""
        return contextlib.nullcontext() if self._ranks is None else SharedBatchNorm(self._ranks)


class Tape:
    """The record of forward passes; see `program` for what each method is for."""

    def __init__(self, model, inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]):
        self._model, self._inputs, self._outputs = model, inputs, outputs
        self._recorded: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._seeds: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def logits(self) -> dict[str, torch.Tensor]:
        return {point: z.detach() if isinstance(z, torch.Tensor) else z for point, z in self._outputs.items()}

    def backward(self, cotangents: dict[str, torch.Tensor], *, weights: bool, record: bool = False,
                 images: bool = False):
        """Backward from the logits of some points.

        weights False: to the input images only, returned as {point: gradient}, no weight gradient is computed; the
        tape is used up unless record is True, which keeps a graph for `tangent` and takes [K, N, C] cotangents for K
        passes ([K, N, ...] gradients). weights True: to the parameters' .grad, together with all tangents; images: of
        the same pass, the gradient of the one point's images, {point: gradient}.
        """
        if weights:
            outputs, seeds = self._outputs_and_seeds(cotangents)
            parameters = [p for p in self._model.parameters() if p.requires_grad]
            asked = self._inputs if images else {}
            # With `inputs`, the images' own gradient (a convolution in the first layer) is computed only if asked for.
            with _second_derivatives():
                torch.autograd.backward(outputs, seeds, inputs=[*parameters, *asked.values()])
            return {point: x.grad for point, x in asked.items()} if images else None
        if record:
            return {point: self._record(point, v) for point, v in cotangents.items()}
        points = list(cotangents)
        self._check_graph(points)
        grads = torch.autograd.grad([self._outputs[p] for p in points], [self._inputs[p] for p in points],
                                    [cotangents[p] for p in points])
        return dict(zip(points, grads, strict=True))

    def _record(self, point: str, directions: torch.Tensor) -> torch.Tensor:
        """v^T J for directions [K, N, C]: [K, *x.shape].

        A loop over K, not vmap (is_grads_batched): measured on a CPU at K = 3 with train-mode BatchNorm, vmap takes
        1.00 (small CNN) and 1.07 (WRN-10-2) times the loop, and cannot batch a user's autograd.Function.
        """
        self._check_graph([point])
        logits, x = self._outputs[point], self._inputs[point]
        if x.device.type == "cpu" and convolution.stock_backward(logits, torch.bfloat16):
            raise UserError("a Jacobian penalty in bfloat16 on a CPU is refused for this model, since PyTorch's double "
                            "backward, which can give wrong weight gradients there, would run for one of its "
                            "convolutions (transposed, checkpointed or scripted); use amp='off' (float32)")
        g = project(logits, x, directions)
        self._recorded[point] = g, directions
        return g.detach()

    def tangent(self, point: str, u: torch.Tensor) -> torch.Tensor | None:
        """u: d loss / dg for the g that `backward(record=True)` returned; its weight gradients join the last pass.
        Returns J u [K, N, C] where the directions require grad: that is one more pass."""
        g, directions = self._recorded.pop(point)
        self._seeds.append((g, u))
        if directions.requires_grad:
            with _second_derivatives():
                return torch.autograd.grad(g, directions, u, retain_graph=True)[0]
        return None

    def local(self, point: str, function, weight) -> torch.Tensor:
        """function(logits, x), a 0-d tensor in the graph; weight times its gradient joins the last pass."""
        value = function(self._outputs[point], self._inputs[point])
        if not isinstance(value, torch.Tensor) or value.dim() != 0 or not value.requires_grad:
            raise UserError("local(logits, x, y) must return a 0-d tensor that depends on the model")
        self._seeds.append((value, torch.ones_like(value) * weight))
        return value.detach()

    def differentiable(self, loss: torch.Tensor, dlogits: dict[str, torch.Tensor]) -> torch.Tensor:
        """`loss` with a graph: its backward starts from the seeds that `backward(dlogits, weights=True)` would use."""
        outputs, seeds = self._outputs_and_seeds(dlogits)
        return KnownGradient.apply(loss, seeds, *outputs)

    def _outputs_and_seeds(self, dlogits):
        pairs = [(self._outputs[point], d) for point, d in dlogits.items()] + self._seeds
        return [output for output, _ in pairs], [seed for _, seed in pairs]

    def _check_graph(self, points):
        for point in points:
            if not self._outputs[point].requires_grad:
                raise UserError("the model's output does not depend on its input differentiably")


@contextlib.contextmanager
def _second_derivatives() -> Iterator[None]:
    """Inside, what PyTorch says of a layer that has none becomes a UserError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        missing = re.search(r"derivative for aten::(\w+?)(_backward)? is not implemented", str(error))
        if missing is None:
            raise
        raise UserError(f"a penalty of input gradients needs the second derivative of {missing[1]}, which PyTorch does "
                        "not have; replace that layer, or take a method without such a penalty (adv, trades, atlas_g)"
                        ) from error
