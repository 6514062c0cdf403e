"""The errors that people meet. A message is one line: where, what was found, what was expected."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. A command prints it as one line and ends with exit code 2."""


class ConfigError(InputError):
    """A bad name or value in a config, a recipe, a spec or on the command line."""


class MethodError(InputError):
    """An unknown method or option, or a model that a method cannot be attached to."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the valid names nearest to `word`, or the first fifteen."""
    known = sorted(known, key=lambda name: (not name.startswith(word), name))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(known) - 15} more" if len(known) > 15 else ""
    return f"known: {', '.join(known[:15])}{more}"
