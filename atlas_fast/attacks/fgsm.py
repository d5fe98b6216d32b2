"""One-step attack from a random start (Wong et al. 2020; equation 3 of the paper without it)."""

from .pgd import PGD


class FGSM(PGD):
    """PGD with one step: uniform random start in the eps-ball, a step of 1.25 eps (L_inf: by the sign), projection.

    eps, step_size: pixel units; step_size None is 1.25 eps. random_start=False with step_size=eps is the FGSM of
    Goodfellow et al. (2015), equation 3. norm: "Linf" or "L2".
    """

    def __init__(self, eps: float, step_size: float | None = None, random_start: bool = True, norm: str = "Linf"):
        super().__init__(eps, step_size, steps=1, random_start=random_start, norm=norm)
