"""Wrong use of the package, and how command lines report it: one clear line, exit status 2, no traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(ValueError):
    """Wrong use. The message is one clear sentence: what was wrong and what would be right."""


class Interrupted(KeyboardInterrupt):
    """Ended by a signal, after saving; the message says where and how to go on. status: the exit status, by convention
    128 and the signal's number (SIGINT 130, SIGTERM 143)."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number, self.status = number, 128 + number


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, but a wrong option raises UserError instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:  # argparse (Python 3.11) takes --alpha=-- for no value, and gives []
            if action.nargs is None and getattr(found, action.dest, None) == []:
                self.error(f"argument {'/'.join(action.option_strings)}: expected one argument")
        return found, rest


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line's `main` and exit with its status.

    UserError becomes one line on stderr and exit status 2, and so does the system's refusal of a file; Ctrl-C a short
    line and status 130, SIGTERM, where it is handled, 143.
    """
    try:
        status = main() or 0
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"atlas_fast: error: {message}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as error:
        print(f"\natlas_fast: {str(error) or 'interrupted'}", file=sys.stderr)
        status = getattr(error, "status", 130)
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    except OSError as error:  # a disk, a name or a right of the user's, not a mistake of the program
        where = f"{error.filename}: " if error.filename else ""
        print(f"atlas_fast: error: {where}{error.strerror or error}", file=sys.stderr)
        status = 2
    sys.exit(status)
