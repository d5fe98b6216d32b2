"""What a run prints: a bar with images per second and time left for the whole run, and a line an epoch."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Progress:
    """The bar is drawn on a terminal only; elsewhere only the lines of the epochs appear."""

    def __init__(self, images: int, done: int = 0, shown: bool = True):
        """images: in the whole run; done: before this start (resumed). tqdm's rate is that of this start;
        shown False: say nothing, since another process does."""
        self.shown = shown
        self.bar = tqdm(total=images, initial=done, unit="img", unit_scale=True, dynamic_ncols=True, smoothing=0.1,
                        leave=False, disable=not (shown and sys.stderr.isatty()), mininterval=0.5)

    def epoch(self, number: int, epochs: int) -> None:
        self.bar.set_description(f"epoch {number}/{epochs}", refresh=False)

    def doing(self, what: str) -> None:
        """Say in the bar what goes on beside the training itself."""
        self.bar.set_postfix_str(what)

    def step(self, images: int) -> None:
        self.bar.update(images)

    def line(self, line: dict, epochs: int, improved: bool) -> None:
        terms = " ".join(f"{name} {line[name]:.4g}" for name in ("loss", "ce", "kl", "jacobian") if name in line)
        self.bar.set_postfix_str("", refresh=False)
        self.write(f"epoch {line['epoch']:>3}/{epochs}  lr {line['lr']:.3g}  eps {line['eps']:.4f}  {terms}  "
                   f"val clean {line['clean_accuracy']:.2%} robust {line['robust_accuracy']:.2%} "
                   f"adversary {line['adversary_accuracy']:.2%}  "
                   f"|J|^2 {line['jacobian_norm']:.4g}  {line['seconds']:.1f} s  {line['ms_per_batch']:.1f} ms/batch"
                   + ("  *" if improved else ""))

    def write(self, text: str) -> None:
        if not self.shown:
            return
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()
