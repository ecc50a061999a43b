"""The responses of an evaluation, one JSON object a line, in the order in which they were graded.

Keys: `data` and `id` name the problem, `category` groups it, `sample` is 0 for the greedy response and counts the drawn
ones from 1; `outcome` is that of the verdict, or REFUSED where the sampler cannot take the prompt; then `reason`,
`answer` (what was judged), `response`, `tokens`, `finish`, STOP or LENGTH, and the `policy_version` that began it.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from services.common.errors import InvalidRequestError
from services.common.verdict import Outcome

GREEDY = 0
REFUSED = "REFUSED"

Key = tuple[str, str, int]
"""Data, problem, sample."""


@dataclass(frozen=True, slots=True)
class Response:
    """One graded response; see the module for its fields."""

    data: str
    id: str
    category: str
    sample: int
    outcome: str
    reason: str
    answer: str
    response: str
    tokens: int
    finish: str
    policy_version: int | None

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.data, self.id, self.sample

    @property
    def is_correct(self) -> bool | None:
        """Whether it solves its problem; None where the grader failed. A refused prompt is not solved."""
        return None if self.outcome == Outcome.INFRA_ERROR.name else self.outcome == Outcome.CORRECT.name


class ResponseLog:
    """A file of responses that survives being killed: what is complete stays, a half-written line goes."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InvalidRequestError: the file holds something else.
        """
        path.touch()
        whole = path.read_bytes()
        complete = whole[: whole.rfind(b"\n") + 1]
        try:
            self.responses = [Response(**json.loads(line)) for line in complete.decode().splitlines()]
        except (ValueError, TypeError) as error:
            raise InvalidRequestError(f"{path} holds no responses of an evaluation: {error}") from error
        self._file = path.open("r+b")
        self._file.truncate(len(complete))
        self._file.seek(len(complete))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def keys(self) -> set[Key]:
        """What is there."""
        return {response.key for response in self.responses}

    def append(self, response: Response) -> None:
        """Add one."""
        self._file.write((json.dumps(asdict(response), ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        self._file.flush()
        self.responses.append(response)


def in_order(responses: Iterable[Response], keys: Iterable[Key]) -> list[Response]:
    """The responses of these keys, in the order of the keys."""
    by_key = {response.key: response for response in responses}
    return [by_key[key] for key in keys]
