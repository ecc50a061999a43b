"""The log of responses outlives a kill."""

from pathlib import Path

import pytest

from services.cli.eval_responses import Response, ResponseLog
from services.common.errors import InvalidRequestError

FIRST, SECOND = (Response("data", name, "", 0, "CORRECT", "", "2", "½ \ud800", 1, "STOP", 0) for name in "ab")


def test_a_half_written_line_goes_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    with ResponseLog(path) as log:
        log.append(FIRST)
        log.append(SECOND)
    path.write_bytes(path.read_bytes()[:-5])
    with ResponseLog(path) as log:
        assert log.keys() == {FIRST.key}
        log.append(SECOND)
    with ResponseLog(path) as log:
        assert [response.key for response in log.responses] == [FIRST.key, SECOND.key]


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "a"}\n')
    with pytest.raises(InvalidRequestError, match="holds no responses"):
        ResponseLog(path)
