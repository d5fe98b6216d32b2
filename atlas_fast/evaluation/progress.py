"""A bar per attack: robust accuracy so far and the time left; on a terminal only."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Bar:
    """Counts images; `label` None draws nothing."""

    def __init__(self, label: str | None, images: int):
        drawn = label is not None and sys.stderr.isatty()
        self._bar = tqdm(total=images, desc=label, unit="img", leave=False, dynamic_ncols=True,
                         mininterval=0.5) if drawn else None
        self._seen = self._robust = 0

    def add(self, seen: int, robust: int, resumed: bool) -> None:
        """A batch is done; what an earlier start had already done does not count for the speed."""
        self._seen, self._robust = self._seen + seen, self._robust + robust
        if self._bar is not None:
            self._bar.initial += seen * resumed
            self._bar.set_postfix_str(f"robust {self._robust / self._seen:.2%}", refresh=False)
            self._bar.update(seen)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
