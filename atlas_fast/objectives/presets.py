"""The paper's methods, a row each: which adversary, where the cross-entropy and the Jacobian stand, which KL.

| method      | adversary ascends | CE at | Jacobian at | KL              | paper           |
|-------------|-------------------|-------|-------------|-----------------|-----------------|
| plain       | none              | x     | none        | none            |                 |
| jac         | none              | x     | x           | none            | section 6       |
| adv         | CE                | x'    | none        | none            | section 2       |
| trades      | KL(p(x)||p(x'))   | x     | none        | KL(p(x)||p(x')) | section 2       |
| atlas       | CE                | x'    | x'          | KL(p(x')||p(x)) | equation 14     |
| atlas_l     | CE                | x'    | x'          | none            | equation 20     |
| atlas_g     | CE                | x'    | none        | KL(p(x')||p(x)) | equation 21     |
| tradesjac   | KL(p(x)||p(x'))   | x     | x           | KL(p(x)||p(x')) | D.1             |

Common keywords: eps, step_size in pixel units (images in [0, 1]), step_size None: 1.25 eps for one step and
2.5 eps / steps for more; alpha, beta: weights of ||J||_F^2 and KL; steps: sign steps of the adversary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from ..errors import UserError
from .framework import Objective


def plain(label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy at x: natural training, for comparison."""
    return Objective("plain", label_smoothing=label_smoothing, ramps=False)


def jac(alpha: float, num_projections: int = 1, label_smoothing: float = 0.0) -> Objective:
    """Zero-step JAC: CE(x) + alpha ||J(x)||_F^2 (Hoffman et al. 2019, but without their factor 1/2). Does not ramp."""
    return Objective("jac", jacobian_at="x", alpha=alpha, num_projections=num_projections,
                     label_smoothing=label_smoothing, ramps=False)


def adv(eps: float, steps: int = 1, step_size: float | None = None, label_smoothing: float = 0.0) -> Objective:
    """Adversarial training: CE(x') (Madry et al. 2018; one step: Wong et al. 2020)."""
    return Objective("adv", "ce", "adv", eps=eps, steps=steps, step_size=step_size, label_smoothing=label_smoothing)


def trades(eps: float, beta: float, steps: int = 1, step_size: float | None = None,
           label_smoothing: float = 0.0) -> Objective:
    """TRADES: CE(x) + beta KL(p(x)||p(x')) (Zhang et al. 2019b), gradients through both arguments."""
    return Objective("trades", "kl", "x", kl="clean||adv", eps=eps, steps=steps, step_size=step_size, beta=beta,
                     label_smoothing=label_smoothing)


def atlas(eps: float, alpha: float, beta: float, steps: int = 1, step_size: float | None = None,
          num_projections: int = 1, label_smoothing: float = 0.0) -> Objective:
    """ATLAS: CE(x') + alpha ||J(x')||_F^2 + beta KL(p(x')||p(x)), equation 14."""
    return Objective("atlas", "ce", "adv", "adv", "adv||clean", eps=eps, steps=steps, step_size=step_size, alpha=alpha,
                     beta=beta, num_projections=num_projections, label_smoothing=label_smoothing)


def atlas_l(eps: float, alpha: float, steps: int = 1, step_size: float | None = None, num_projections: int = 1,
            label_smoothing: float = 0.0) -> Objective:
    """ATLAS-l, the local component alone: CE(x') + alpha ||J(x')||_F^2, equation 20."""
    return Objective("atlas_l", "ce", "adv", "adv", eps=eps, steps=steps, step_size=step_size, alpha=alpha,
                     num_projections=num_projections, label_smoothing=label_smoothing)


def atlas_g(eps: float, beta: float, steps: int = 1, step_size: float | None = None,
            label_smoothing: float = 0.0) -> Objective:
    """ATLAS-g, without the Jacobian: CE(x') + beta KL(p(x')||p(x)), equation 21."""
    return Objective("atlas_g", "ce", "adv", kl="adv||clean", eps=eps, steps=steps, step_size=step_size, beta=beta,
                     label_smoothing=label_smoothing)


def tradesjac(eps: float, alpha: float, beta: float, steps: int = 1, step_size: float | None = None,
              num_projections: int = 1, label_smoothing: float = 0.0) -> Objective:
    """TradesJac: CE(x) + alpha ||J(x)||_F^2 + beta KL(p(x)||p(x')), appendix D.1."""
    return Objective("tradesjac", "kl", "x", "x", "clean||adv", eps=eps, steps=steps, step_size=step_size, alpha=alpha,
                     beta=beta, num_projections=num_projections, label_smoothing=label_smoothing)


PRESETS: dict[str, Callable[..., Objective]] = {
    preset.__name__: preset for preset in (plain, jac, adv, trades, atlas, atlas_l, atlas_g, tradesjac)
}


def _preset(method: str) -> Callable[..., Objective]:
    if method not in PRESETS:
        raise UserError(f"unknown method {method!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[method]


def parameters(method: str) -> tuple[str, ...]:
    """Names of the keywords of a method's row. Raises UserError for an unknown method."""
    return tuple(inspect.signature(_preset(method)).parameters)


def create(method: str, **keywords) -> Objective:
    """The preset of that name. Raises UserError for an unknown method and for missing or foreign keywords."""
    preset = _preset(method)
    try:
        inspect.signature(preset).bind(**keywords)
    except TypeError as error:
        raise UserError(f"{method} takes {', '.join(parameters(method))}: {error}") from None
    return preset(**keywords)
