import io
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from grpc import aio
from rich.console import Console

from services.cli.live import LiveScreen, clock, sparkline
from services.cli.plain import PlainLines
from services.cli.progress import Progress, Record
from services.cli.watch import watch_run
from tests.unit.cli.synthetic_run import AFTER, BEFORE, evaluation_row, step_row
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2
from treerl.trainer.v1 import trainer_service_pb2_grpc as trainer_grpc


def step(number: int, **changes: Any) -> trainer_pb2.StepMetrics:
    return ParseDict(step_row(number, **changes), trainer_pb2.StepMetrics())


def evaluation(version: int, counts: dict[str, tuple[int, int]]) -> trainer_pb2.Evaluation:
    return ParseDict(evaluation_row(version, counts), trainer_pb2.Evaluation())


def test_telling_a_record_twice_changes_nothing() -> None:
    progress = Progress(total_steps=10)
    assert progress.remaining_s is None
    assert progress.add(evaluation(0, BEFORE))
    assert progress.add(step(1))
    assert progress.add(step(2))
    assert not progress.add(step(2))
    assert not progress.add(evaluation(0, BEFORE))
    assert progress.done == 2
    assert progress.remaining_s == 8 * 4.0
    assert [e.policy_version for e in progress.evaluations] == [0]


class DyingTrainer(trainer_grpc.TrainerServiceServicer):
    """Breaks off after every record, as a trainer that is killed again and again would."""

    records = (evaluation(0, BEFORE), step(1), step(2), evaluation(2, AFTER))

    def __init__(self) -> None:
        self.calls = 0

    async def WatchSteps(self, request: Any, context: Any) -> AsyncIterator[trainer_pb2.WatchStepsResponse]:
        self.calls += 1
        for record in self.records[: self.calls]:
            version = record.policy_version
            if version >= request.from_step:
                kind = "step" if isinstance(record, trainer_pb2.StepMetrics) else "evaluation"
                yield trainer_pb2.WatchStepsResponse(**{kind: record})
        if self.calls < len(self.records):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")

    async def GetStatus(self, request: Any, context: Any) -> trainer_pb2.GetStatusResponse:
        return trainer_pb2.GetStatusResponse(state=trainer_pb2.RUN_STATE_FINISHED)


async def test_watching_survives_restarts_and_tells_every_record_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.cli.watch._RETRY_S", 0.01)
    server = aio.server()
    trainer_grpc.add_TrainerServiceServicer_to_server(DyingTrainer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    news: list[Record] = []
    await watch_run(f"127.0.0.1:{port}", Progress(2), news.append)
    await server.stop(None)
    assert news == list(DyingTrainer.records)


def test_the_live_screen_shows_accuracy_reward_and_what_is_left() -> None:
    progress = Progress(total_steps=10)
    console = Console(width=120, record=True, force_terminal=True, file=io.StringIO())
    screen = LiveScreen(console, "demo", progress)
    screen.phase("training")
    console.print(screen.render())
    for record in (evaluation(0, BEFORE), step(1), step(2), evaluation(2, AFTER)):
        progress.add(record)
    console.print(screen.render())
    text = console.export_text()
    for shown in (
        "step 2/10",
        "about 32 s left",
        "72.5%",
        "from 25.0%",
        "40.0%",
        "2,500",
        "waiting: prompts 3, trees 1",
    ):
        assert shown in text


def test_plain_lines_say_a_step_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines(Progress(total_steps=10))
    lines.phase("training")
    lines.phase("training")
    lines.news(step(2))
    lines.news(evaluation(2, AFTER))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert "step 2/10  pass rate 0.400" in printed[1]
    assert "held-out accuracy 0.725 of 400 problems at policy version 2" in printed[2]


def test_small_pieces() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert (clock(42.4), clock(185)) == ("42 s", "3:05 min")
