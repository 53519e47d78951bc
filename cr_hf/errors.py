"""The errors a user can mend. Each message is one line: the thing, the place, the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CRError(Exception):
    """Base of them all: the command line prints its message without a traceback and exits with code 2."""


class DataError(CRError):
    """Rows, files or labels that cannot be used as they are."""


class RecipeError(CRError):
    """A recipe or an override that names an unknown key or a value out of range."""


class CheckpointError(CRError):
    """A run directory or a checkpoint that is missing, torn, or of another shape."""


class NonFiniteError(CRError):
    """A loss, gradient or weight that is NaN or infinite."""


class FeatureCacheError(CRError):
    """Cached features that are damaged or do not belong to this data and backbone."""


class PublishError(CRError):
    """A checkpoint that must not be published as it is, or a Hub that did not take it."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an "unknown name" message.

    Args:
        name: what was given.
        allowed: what could have been given.

    Returns:
        " (did you mean 'x'?)", or "" where nothing is near.
    """
    found = difflib.get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
