"""How many inputs the other files of this folder have judged; by its name this one runs last."""

from pathlib import Path

import pytest
from judging import JUDGED

LEAST = 2_000


def test_the_number_of_inputs(request):
    here = Path(__file__).parent
    ran = {item.path.name for item in request.session.items if item.path.parent == here}
    if ran != {path.name for path in here.glob("test_*.py")} or request.config.option.keyword:
        pytest.skip("only some of the fuzz tests were asked for")
    assert sum(JUDGED.values()) >= LEAST, dict(JUDGED)
