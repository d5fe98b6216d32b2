"""Random directions for the Jacobian projection (Hoffman et al. 2019): v uniform on the unit sphere of R^C.

    n_{2i}, n_{2i+1} = r cos(2 pi u2), r sin(2 pi u2),   r = sqrt(-2 ln u1)     (Box and Muller 1958)
    v = n / ||n||

u1 = (k1 + 1) 2^-24 and u2 = k2 2^-24 from the upper 24 bits of neighbouring Philox words; -2 ln u1 is kept above 2^-24
so that no vector has length zero.
"""

import math

import torch

from ..errors import UserError
from . import rng as _rng
from ._arguments import whole
from ._registry import define

_SMALLEST = 2.0**-24


def normal_reference(rng, samples, n, purpose, sample_offset):
    """Standard normals, float64 [samples, n], by the formula above."""
    even = n + n % 2
    k = _rng.words_reference(rng, samples, even, purpose, sample_offset) >> 8
    k1, k2 = k[:, 0::2].double(), k[:, 1::2].double()
    r = (-2 * ((k1 + 1) * 2.0**-24).log()).clamp_min(_SMALLEST).sqrt()
    angle = 2 * math.pi * 2.0**-24 * k2
    return torch.stack([r * angle.cos(), r * angle.sin()], dim=-1).flatten(1)[:, :n]


def unit_vectors_reference(rng, samples, classes, draws=1, purpose=_rng.PROJECTION, sample_offset=0):
    """The definition; draw d uses the counter word purpose + (d << 8)."""
    normals = torch.stack([normal_reference(rng, samples, classes, purpose + (d << 8), sample_offset)
                           for d in range(draws)])
    return (normals / normals.norm(dim=2, keepdim=True)).float()


def _fake(rng, samples, classes, draws, purpose, sample_offset):
    return rng.new_empty((draws, samples, classes), dtype=torch.float32)


_op = define("unit_vectors",
             "(Tensor rng, int samples, int classes, int draws, int purpose, int sample_offset) -> Tensor",
             unit_vectors_reference, _fake)


def unit_vectors(rng: torch.Tensor | None, samples: int, classes: int, draws: int = 1, purpose: int = _rng.PROJECTION,
                 sample_offset: int = 0, device: torch.device | str | None = None) -> torch.Tensor:
    """Directions uniform on the unit sphere of R^classes: float32 [draws, samples, classes].

    rng: int64 [2] (seed, step) on the wanted device, or None (then `device`, default CPU). Each sample and draw has its
    own direction. Raises UserError for samples < 0, classes < 1 or draws < 1.
    """
    if not whole(samples, 0) or not whole(classes, 1) or not whole(draws, 1):
        raise UserError("unit_vectors needs whole numbers samples >= 0, classes >= 1 and draws >= 1, "
                        f"got {samples!r}, {classes!r}, {draws!r}")
    _rng.check_counter(purpose, sample_offset)
    device = torch.device(device if device is not None else "cpu") if rng is None else rng.device
    return _op(_rng.resolve_rng(rng, device), samples, classes, draws, purpose, sample_offset)
