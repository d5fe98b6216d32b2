"""A user's own function, named module:function on a command line or in a run's config.json."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .errors import UserError


def is_own(name: str) -> bool:
    """Whether a name is written module:function (timm: and torchvision: are no modules of the user's)."""
    return ":" in name and name.partition(":")[0] not in ("timm", "torchvision")


def find(name: str, what: str) -> Callable:
    """The function of module:function (it may be dotted), importing its module. what: "model" or the like.

    UserError: not such a name, a module that does not import, or no callable of that name in it."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise UserError(f"the {what} {name!r} is not named module:function, e.g. mypackage.nets:make")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything
        raise UserError(f"the {what} {name!r} cannot be imported: {module_name!r} gives {type(error).__name__}: "
                        f"{error}") from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(f"the {what} {name!r} cannot be used: {module_name!r} has no callable {path!r}")
    return found


def make(name: str, what: str, kind: type, **arguments):
    """What module:function returns for these keyword arguments. UserError: it fails, or returns no `kind`."""
    function = find(name, what)
    try:
        made = function(**arguments)
    except UserError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise UserError(f"the {what} {name!r}, called with {', '.join(arguments)}, failed with "
                        f"{type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise UserError(f"the {what} {name!r} returned {type(made).__name__}; it must return a "
                        f"{kind.__module__.replace('.modules.module', '')}.{kind.__name__}")
    return made
