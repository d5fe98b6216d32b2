"""The public interface is annotated, and says so to type checkers (what mypy makes of it: use.py)."""

import inspect
from importlib import resources

import pytest

import atlas_fast as af
from atlas_fast import evaluation
from tests.promised import PROMISED

CLASSES = [*(getattr(af.attacks, name) for name in af.attacks.__all__), af.TrainingStep, af.FreeStep, af.YopoStep]
PUBLIC = {**{f"objectives.{name}": preset for name, preset in af.objectives.PRESETS.items()},
          **{f"{kind.__name__}.__init__": kind.__init__ for kind in CLASSES}}


def promised(name):
    thing = af
    for part in name.split("."):
        thing = getattr(thing, part)
    return evaluation.evaluate if inspect.ismodule(thing) else thing  # the module of that name may be imported


PUBLIC |= {name: promised(name) for name in PROMISED if not inspect.isclass(promised(name))}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_and_result_has_a_type(name):
    signature = inspect.signature(PUBLIC[name])
    assert [key for key, argument in signature.parameters.items()
            if argument.annotation is inspect.Parameter.empty and key != "self"] == []
    assert name.endswith("__init__") or signature.return_annotation is not inspect.Signature.empty


def test_type_checkers_are_told():
    assert resources.files("atlas_fast").joinpath("py.typed").is_file()
