"""Standard output for a command's own lines alone: DeepSpeed, for one, logs there as soon as a library imports it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_OUTPUT, _ERROR = 1, 2


@contextmanager
def clean_stdout() -> Iterator[IO[str]]:
    """A stream to standard output; what else this process and its children print meanwhile goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(_OUTPUT), "w", encoding="utf-8") as ours:
        os.dup2(_ERROR, _OUTPUT)
        try:
            yield ours
        finally:
            sys.stdout.flush()
            os.dup2(ours.fileno(), _OUTPUT)
