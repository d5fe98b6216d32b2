"""BatchNorm, alone or with the ReLU that follows it: a = relu(gamma yh + beta), yh = (y - mu) r, r = (var + eps)^-1/2.

Per channel, with N elements and their mean m(.), G the adjoint of a and D = G [a > 0]:

    backward   dy = gamma r (D - m(D) - yh m(D yh)),   dgamma = N m(D yh),   dbeta = N m(D)
    tangent    t is the adjoint of dy; P = gamma r (t - m(t) - yh m(t yh)) is the backward of t, so the same kernel
               adjoint of G       P [a > 0]
               adjoint of gamma   N r q,   q = m(t D) - m(t) m(D) - m(t yh) m(D yh)
               adjoint of y       -r (m(D yh) P + m(t yh) dy + gamma r q yh)

The last line is the expanded formula of research/whole-step.md with P and dy put in: a combination of three tensors
instead of PyTorch's 48 operations on whole activations. With running statistics all of this is a scale per channel.
"""

from __future__ import annotations

import torch

aten = torch.ops.aten
_DIMS = (0, 2, 3)


class BatchNorm:
    VIEW, OWNS_ADJOINT = False, True
    overwrite = None

    def __init__(self, module: torch.nn.BatchNorm2d, amp: torch.dtype | None = None):
        self.module, self.relu = module, False  # relu: set where the only user is a ReLU

    @property
    def KEEPS_OUTPUT(self):
        return self.relu

    @property
    def parameters(self):
        return [p for p in (self.module.weight, self.module.bias) if p is not None]

    def forward(self, y):
        m = self.module
        if y.dim() != 4:
            raise ValueError(f"expected 4D input (got {y.dim()}D input)")
        batch = m.training or (m.running_mean is None and m.running_var is None)
        if batch and y.numel() == y.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {y.shape}")
        running = (None, None) if m.training and not m.track_running_stats else (m.running_mean, m.running_var)
        out, mean, rstd = aten.native_batch_norm(y, m.weight, m.bias, *running, batch, self._momentum(), m.eps)
        if self.relu:
            out.relu_()
        return out, (y, out if self.relu else None, mean, rstd, running, batch)

    def _momentum(self) -> float:
        """As nn.BatchNorm2d: the weight of this batch in the running statistics; counts the batch."""
        m = self.module
        if m.training and m.track_running_stats and m.num_batches_tracked is not None:
            m.num_batches_tracked.add_(1)
            if m.momentum is None:  # cumulative average
                return 1.0 / float(m.num_batches_tracked)
        return 0.0 if m.momentum is None else m.momentum

    def backward(self, saved, g, wanted, grads):
        weight, bias = self.module.weight, self.module.bias
        if self.relu:
            g = aten.threshold_backward(g, saved[1], 0)
        sums = grads.records or grads.takes(weight) or grads.takes(bias)
        if not wanted[0] and not sums:
            return (None,), None
        dy, dweight, dbias = self._first_order(saved, g, (wanted[0], sums, sums))
        grads.add(weight, dweight)
        grads.add(bias, dbias)
        return (dy,), (g, dy, dweight, dbias)

    def tangent(self, saved, recorded, t, grads):
        batch = saved[-1]
        p, extra = (self._with_statistics if batch else self._with_constants)(saved, recorded, t[0], grads)
        return aten.threshold_backward(p, saved[1], 0) if self.relu else p, extra

    def _with_statistics(self, saved, recorded, t, grads):
        y, _, mean, rstd, _, _ = saved
        D, dy, sum_Dyh, sum_D = recorded
        n = y.numel() // y.shape[1]
        p, sum_tyh, sum_t = self._first_order(saved, t, (True, True, True))
        nq = _dot(t, D) - (sum_t * sum_D + sum_tyh * sum_Dyh) / n
        weight = self.module.weight
        if grads.takes(weight):
            grads.add(weight, rstd * nq)
        scale = rstd / -n
        third = scale * rstd * nq if weight is None else scale * rstd * nq * weight
        extra = _affine(y, mean, rstd, third, self.module.eps)
        extra.addcmul_(p, _channels(scale * sum_Dyh, p)).addcmul_(dy, _channels(scale * sum_tyh, dy))
        return p, extra

    def _with_constants(self, saved, recorded, t, grads):
        weight = self.module.weight
        if grads.takes(weight):
            grads.add(weight, _dot(t, recorded[0]) * (saved[4][1] + self.module.eps).rsqrt())
        return self._first_order(saved, t, (True, False, False))[0], None

    def _first_order(self, saved, g, mask):
        """(dy, sum g yh, sum g) as the mask asks: PyTorch's kernel of the ordinary backward pass."""
        y, _, mean, rstd, running, batch = saved
        return aten.native_batch_norm_backward(g, y, self.module.weight, *running, mean, rstd, batch, self.module.eps,
                                               mask)


def _channels(value, like):
    return value.to(like.dtype)[:, None, None]


def _dot(a, b):
    """sum over samples and pixels of a b, per channel: the dgamma of a BatchNorm with mean 0 and variance 1, which
    reads both once, keeps no product and sums bfloat16 in float32."""
    wide = torch.promote_types(a.dtype, torch.float32)
    zero, one = (f(b.shape[1], dtype=wide, device=b.device) for f in (torch.zeros, torch.ones))
    return aten.native_batch_norm_backward(a, b, one, None, None, zero, one, True, 0.0, (False, True, False))[1]


def _affine(y, mean, rstd, scale, eps):
    """scale (y - mean) rstd per channel, in one pass over y."""
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    return aten.native_batch_norm(y, scale * rstd, zero, mean, one, False, 0.0, 0.0)[0]
