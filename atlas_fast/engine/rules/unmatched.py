"""Why a network cannot run on the sweeps."""


class Unmatched(Exception):
    """The message completes "the sweeps have no rule for ..."."""
