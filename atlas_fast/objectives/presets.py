"""Every method as a row: the adversary, the local term at one point, and the global term that ties two points.

| method     | x' ascends         | from           | cross-entropy | local penalty         | global term             |
|------------|--------------------|----------------|---------------|-----------------------|-------------------------|
| plain      | no x'              |                | x             |                       |                         |
| jac        | no x'              |                | x             | a ||J(x)||_F^2        |                         |
| adv        | CE                 | uniform, eps   | x'            |                       |                         |
| trades     | KL(p(x)||p(x'))    | uniform, eps   | x             |                       | b KL(p(x)||p(x'))       |
| atlas      | CE                 | uniform, eps   | x'            | a ||J(x')||_F^2       | b KL(p(x')||p(x))       |
| atlas_l    | CE                 | uniform, eps   | x'            | a ||J(x')||_F^2       |                         |
| atlas_g    | CE                 | uniform, eps   | x'            |                       | b KL(p(x')||p(x))       |
| tradesjac  | KL(p(x)||p(x'))    | uniform, eps   | x             | a ||J(x)||_F^2        | b KL(p(x)||p(x'))       |
| n_fgsm     | CE, not projected  | uniform, 2 eps | x'            |                       |                         |
| mart       | CE                 | uniform, eps   | x', boosted   |                       | b KL(p(x)||p(x')) doubt |
| nuat       | CE, CE + b nuclear | signs, eps / 2 | x             |                       | b nuclear               |
| grad_align | CE                 | x              | x'            | a (1 - cos(g, g_eta)) |                         |
| llr        | linearity          | uniform, eps   | x             | a linearity + b slope |                         |

from: where x' starts, and the radius of that ball; a, b: alpha, beta; not projected: x' stays in [0, 1], but not in the
eps-ball; boosted: - log p_y - log(1 - largest wrong p); doubt: 1 - p_y(x); nuclear: ||f(x') - f(x)||_* / N; g, g_eta:
grad CE at x and at x + eta, eta uniform in the eps-ball; linearity: |CE(x') - CE(x) - (x' - x) . g|; slope:
|(x' - x) . g|. The upper rows are the paper's (section 2, equations 12 to 14, 20, 21, D.1), the lower ones its
neighbours', with their authors' settings (docs/paper-gaps.md).

`fat` is `adv` whose adversary stops early (Zhang et al. 2020); `objective.replace(tau=...)` does so to any row.

Common keywords: eps, step_size in pixel units (images in [0, 1]), step_size None: 1.25 eps for one step and
2.5 eps / steps for more; alpha, beta: weights as above; steps: sign steps of the adversary. A ramp multiplies eps, step
size and weights of adv to tradesjac, eps and step size of llr, the weight of nuat, and nothing of the other rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..attacks.checks import positive
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


def n_fgsm(eps: float, noise: float = 2.0, step_size: float | None = None, label_smoothing: float = 0.0) -> Objective:
    """N-FGSM: CE(x'), x' = clip(x + eta + step_size sign(grad CE(x + eta)), 0, 1), eta uniform in +- noise eps, and no
    projection on the eps-ball: |x' - x| <= noise eps + step_size (de Jorge et al. 2022). step_size None: eps."""
    return Objective("n_fgsm", "ce", "adv", eps=eps, steps=1, step_size=eps if step_size is None else step_size,
                     start_radius=noise, projected=False, label_smoothing=label_smoothing, ramps=False)


def mart(eps: float, beta: float = 6.0, steps: int = 10, step_size: float | None = None,
         label_smoothing: float = 0.0) -> Objective:
    """MART: - log p_y(x') - log(1 - max_{k != y} p_k(x')) + beta KL(p(x)||p(x')) (1 - p_y(x)), gradients through all of
    it (Wang et al. 2020)."""
    return Objective("mart", "ce", "adv", kl="misclassified", ce="boosted", eps=eps, steps=steps, step_size=step_size,
                     beta=beta, label_smoothing=label_smoothing, ramps=False)


def nuat(eps: float, beta: float = 4.5, steps: int = 1, step_size: float | None = None,
         label_smoothing: float = 0.0) -> Objective:
    """NuAT: CE(x) + beta ||f(x') - f(x)||_* / N, the nuclear norm of the batch's [N, C] differences of logits
    (Sriramanan et al. 2021).

    x' starts at x + eps / 2 times random signs. With one sign step it ascends CE + beta ||.||_* / N in every second
    training step (where seed + step is odd), CE alone in the others; with several (NuAT2) in the first, third, ... of
    them. step_size None: eps.
    The ramp multiplies beta alone, as the authors do.
    """
    return Objective("nuat", "ce+nuclear", "x", kl="nuclear", eps=eps, steps=steps, beta=beta,
                     step_size=eps if step_size is None else step_size, start="signs", start_radius=0.5,
                     label_smoothing=label_smoothing, ramps="weights")


def grad_align(eps: float, alpha: float | None = None, step_size: float | None = None,
               label_smoothing: float = 0.0) -> Objective:
    """GradAlign: CE(x') + alpha (1 - mean cos(grad l(x), grad l(x + eta))), x' by FGSM from x, eta uniform in the
    eps-ball and not clipped to [0, 1], the gradient at x held constant (Andriushchenko and Flammarion 2020).

    alpha None: `grad_align_weight(eps)`. step_size None: eps. The gradient at x is the one that made x', so it follows
    `bn_mode`. Samples with a zero gradient at either point do not count.
    """
    return Objective("grad_align", "ce", "adv", "noise", eps=eps, steps=1,
                     step_size=eps if step_size is None else step_size,
                     alpha=grad_align_weight(eps) if alpha is None else alpha, gradients="alignment", start="zero",
                     label_smoothing=label_smoothing, ramps=False)


def grad_align_weight(eps: float) -> float:
    """The authors' rule on CIFAR-10, 0.02 * 10^(255 eps / 8): 0.2 at 8/255, 2 at 16/255. UserError beyond that, where
    they give none, and for eps <= 0."""
    if positive(eps, "eps") > 16.5 / 255:
        raise UserError(f"the authors of grad_align give no alpha for eps {eps:.4g}, only up to 16/255; give alpha")
    return 0.02 * 10 ** (255 * eps / 8)


def llr(eps: float, alpha: float = 2.0, beta: float = 0.6, steps: int = 10, step_size: float | None = None,
        label_smoothing: float = 0.0) -> Objective:
    """LLR: CE(x) + alpha |l(x') - l(x) - d . grad l(x)| + beta |d . grad l(x)|, d = x' - x held constant, where x'
    ascends the first of these (Qin et al. 2019, with lambda = alpha, mu = beta)."""
    return Objective("llr", "linearity", "x", "x", eps=eps, steps=steps, step_size=step_size, alpha=alpha, beta=beta,
                     gradients="linearity", label_smoothing=label_smoothing, ramps="eps")


def fat(eps: float, steps: int = 10, step_size: float | None = None, tau: int = 0, omega: float = 0.001,
        label_smoothing: float = 0.0) -> Objective:
    """Friendly adversarial training: CE(x'), x' stopped tau steps after it is misclassified (Zhang et al. 2020).

    Its authors raise tau from 0 over 1 to 2 during training (epochs 50 and 90 of 120).
    """
    return Objective("fat", "ce", "adv", eps=eps, steps=steps, step_size=step_size, tau=tau, omega=omega,
                     label_smoothing=label_smoothing)


PAPER = ("plain", "jac", "adv", "trades", "atlas", "atlas_l", "atlas_g", "tradesjac")
"""Names of the paper's methods; the others are its neighbours."""

PRESETS: dict[str, Callable[..., Objective]] = {
    preset.__name__: preset
    for preset in (plain, jac, adv, trades, atlas, atlas_l, atlas_g, tradesjac, n_fgsm, mart, nuat, grad_align, llr,
                   fat)
}


def _preset(method: str) -> Callable[..., Objective]:
    if method not in PRESETS:
        raise UserError(f"unknown method {method!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[method]


def parameters(method: str) -> tuple[str, ...]:
    """Names of the keywords of a method's row. Raises UserError for an unknown method."""
    return tuple(inspect.signature(_preset(method)).parameters)


def create(method: str, **keywords: Any) -> Objective:
    """The preset of that name. Raises UserError for an unknown method and for missing or foreign keywords."""
    preset = _preset(method)
    try:
        inspect.signature(preset).bind(**keywords)
    except TypeError as error:
        raise UserError(f"{method} takes {', '.join(parameters(method))}: {error}") from None
    return preset(**keywords)
