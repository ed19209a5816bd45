"""The one exception that a user of palimpsest is meant to see."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence: what, where, and what would be right.

    The command line prints the message without a traceback and exits with code 2.
    """


@contextmanager
def refused(name: str) -> Iterator[None]:
    """End a script on an ``InputError`` as the command line ends: one sentence on stderr, exit code 2."""
    try:
        yield
    except InputError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 (what scripts say it with)
        raise SystemExit(2) from error


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to ``word``, or the list of choices."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(known)}."
