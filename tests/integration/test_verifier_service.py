"""VerifierService over real gRPC, its stream worker on a real server, and the whole process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common import codec, problem_codec
from services.common.grpc_server import GrpcServer
from services.common.overload import patiently, retry_after_s
from services.common.problem import CallTests, Domain, Problem
from services.common.stage import Stage
from services.common.streams import GRADED, PROMPTS, TREES, Streams, connect
from services.common.tree import Branch, FinishReason, SamplingParameters, SearchParameters, Tree, VersionSpan
from services.common.verdict import Outcome
from services.verifier.grading import Grader
from services.verifier.servicer import MAX_BATCH_UNANSWERED, SERVICE_NAME, VerifierServicer
from services.verifier.settings import VerifierSettings
from services.verifier.worker import VerifierWorker
from treerl.common.v1 import tree_pb2, verdict_pb2
from treerl.verifier.v1 import verifier_service_pb2 as pb
from treerl.verifier.v1 import verifier_service_pb2_grpc as rpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = VerifierSettings(
    instance="test", max_running_gradings=4, max_waiting_calls=2, math_workers=1, code_workers=1
)
TWICE = Problem(
    "twice",
    Domain.CODE,
    "Double x.",
    tests=CallTests(fn_name="f", cases=tuple({"args": [x], "result": 2 * x} for x in (4, 0, 5))),
)
SEVEN = Problem("seven", Domain.MATH, "3 + 4?", answer="7")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[Grader]:
    grader = Grader(SETTINGS)
    await grader.start()
    yield grader
    await grader.close()


@pytest_asyncio.fixture(loop_scope="module")
async def channel(grader: Grader) -> AsyncIterator[aio.Channel]:
    servicer = VerifierServicer(SETTINGS)
    servicer.attach(grader)
    server = GrpcServer(SETTINGS, SERVICE_NAME)
    rpc.add_VerifierServiceServicer_to_server(servicer, server.server)
    async with server, aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def tree(*responses: str) -> Tree:
    branches = tuple(
        Branch(i, None, 0, (1,), (-0.5,), (), (VersionSpan(0, 1),), FinishReason.STOP, response)
        for i, response in enumerate(responses)
    )
    search, sampling = SearchParameters(chains=len(branches)), SamplingParameters(1.0, 1.0, 8)
    return Tree("tree-1", SEVEN, search, sampling, (1,), branches)


def verify(response: str, limits: verdict_pb2.Limits | None = None) -> pb.VerifyRequest:
    return pb.VerifyRequest(problem=problem_codec.encode_problem(SEVEN), response=response, limits=limits)


async def test_verify_grades_one_response(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    answer = await stub.Verify(verify(r"\boxed{7}"))
    assert codec.decode_verdict(answer.verdict).outcome is Outcome.CORRECT
    slow = await stub.Verify(verify(r"\boxed{9^{9^{9^{9}}}}", verdict_pb2.Limits(wall_s=0.3)))
    assert codec.decode_verdict(slow.verdict).outcome is Outcome.TIMEOUT


async def test_results_of_tests_come_only_when_asked_for(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    request = pb.VerifyRequest(
        problem=problem_codec.encode_problem(TWICE),
        response="def f(x): return 2 * x if x else 1 / x",
        limits=verdict_pb2.Limits(cases=verdict_pb2.CASES_ALL),
    )
    assert not (await stub.Verify(request)).verdict.cases
    request.detail = pb.DETAIL_CASES
    verdict = codec.decode_verdict((await stub.Verify(request)).verdict)
    assert [case.outcome for case in verdict.cases] == [Outcome.CORRECT, Outcome.RUNTIME_ERROR, Outcome.CORRECT]
    assert verdict.reason == "case 2 of 3: ZeroDivisionError in line 1: 'division by zero'; 2 of 3 pass"


async def test_verify_tree_grades_every_branch(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    answer = await stub.VerifyTree(pb.VerifyTreeRequest(tree=codec.encode_tree(tree(r"\boxed{7}", "8", ""))))
    outcomes = [branch.verdict and branch.verdict.outcome for branch in codec.decode_tree(answer.tree).branches]
    assert outcomes == [Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED]


async def test_a_batch_longer_than_the_window_is_answered_whole(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    count = 3 * MAX_BATCH_UNANSWERED

    async def requests() -> AsyncIterator[pb.VerifyBatchRequest]:
        for index in range(count):
            response = rf"\boxed{{{index % 10}}}"
            yield pb.VerifyBatchRequest(index=index, problem=problem_codec.encode_problem(SEVEN), response=response)

    answers = {answer.index: answer.verdict.outcome async for answer in stub.VerifyBatch(requests())}
    assert answers == {i: (1 if i % 10 == 7 else 2) for i in range(count)}


async def test_a_batch_answers_before_the_client_is_done(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    call = stub.VerifyBatch()
    for index in range(3):
        await call.write(pb.VerifyBatchRequest(index=index, problem=problem_codec.encode_problem(SEVEN), response="7"))
        assert (await call.read()).index == index
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_a_malformed_request_ends_its_batch_with_a_reason(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    call = stub.VerifyBatch()
    await call.write(pb.VerifyBatchRequest(response="7"))
    with pytest.raises(aio.AioRpcError, match="expected MATH, CODE or CUSTOM") as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("before", [0, 3])
async def test_bytes_that_are_no_request_end_their_batch_with_a_reason(channel: aio.Channel, before: int) -> None:
    call = channel.stream_stream(f"/{SERVICE_NAME}/VerifyBatch")()
    for _ in range(before):
        await call.write(
            pb.VerifyBatchRequest(problem=problem_codec.encode_problem(SEVEN), response="7").SerializeToString()
        )
    await call.write(b"\x0a\xff\xff")
    await call.done_writing()
    with pytest.raises(aio.AioRpcError, match="3 bytes are not the message that this method takes") as refused:
        async for _ in call:
            pass
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_status_names_the_isolation(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    await stub.Verify(verify("7"))
    status = await stub.GetStatus(pb.GetStatusRequest())
    assert status.isolation_level >= pb.ISOLATION_LEVEL_SECCOMP
    assert (status.in_flight, status.graded > 0) == (0, True)


async def test_errors_say_what_to_do(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
    with pytest.raises(aio.AioRpcError, match="expected 0.1 to 60") as refused:
        await stub.Verify(verify("7", verdict_pb2.Limits(wall_s=1e6)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_caller_that_finds_too_many_waiting_is_told_when_to_come_back(channel: aio.Channel) -> None:
    stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)

    def sleeping(number: int) -> pb.VerifyRequest:
        response = f"def f(x):\n    import time; time.sleep({5 + number}); return 2 * x"
        return pb.VerifyRequest(problem=problem_codec.encode_problem(TWICE), response=response)

    calls = [stub.Verify(sleeping(number)) for number in range(6)]  # four run, two wait
    await asyncio.sleep(0.3)
    with pytest.raises(aio.AioRpcError, match="2 calls wait, as many as may") as refused:
        await stub.Verify(verify("7"))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (retry_after_s(refused.value) or 0) > 0
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    answer = await patiently(lambda: stub.Verify(verify(r"\boxed{7}")))
    assert codec.decode_verdict(answer.verdict).outcome is Outcome.CORRECT


async def test_a_client_with_one_answer_waits_for_no_batch_of_another(grader: Grader) -> None:
    servicer = VerifierServicer(VerifierSettings(instance="test", max_running_gradings=1))
    servicer.attach(grader)
    server = GrpcServer(SETTINGS, SERVICE_NAME)
    rpc.add_VerifierServiceServicer_to_server(servicer, server.server)
    async with server:
        address = f"127.0.0.1:{server.port}"
        private = [("grpc.use_local_subchannel_pool", 1)]  # else two channels of one process share a connection
        async with aio.insecure_channel(address, private) as first, aio.insecure_channel(address, private) as second:
            greedy: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(first)
            modest: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(second)
            ended: list[str] = []

            async def ask(stub: "rpc.VerifierServiceAsyncStub", name: str) -> None:
                await stub.Verify(verify(rf"\boxed{{x + {name}}}"))
                ended.append(name)

            asking = [asyncio.create_task(ask(greedy, str(number))) for number in range(30)]
            await asyncio.sleep(0.02)
            await ask(modest, "modest")
            assert len(ended) < 30
            await asyncio.gather(*asking)


async def test_trees_go_from_stream_to_stream(grader: Grader, redis_server: str) -> None:
    redis = await connect(redis_server)
    streams = Streams(redis, "verifier-test", "worker")
    await streams.create()
    stopping = asyncio.Event()
    sampled = codec.encode_tree(tree(r"\boxed{7}", r"\boxed{8}")).SerializeToString()

    async def sample(payload: bytes) -> bytes:
        return sampled

    await streams.enqueue("batch", [("tree-1", b"")])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Stage(streams, PROMPTS, TREES, 1, 10).run(sample, stopping))
        tasks.create_task(VerifierWorker(grader, SETTINGS).run(streams, stopping))
        async with asyncio.timeout(20):
            while not (entries := await streams.read(GRADED, 1)):
                pass
        stopping.set()
    graded = codec.decode_tree(codec.parse(tree_pb2.Tree, entries[0].payload))
    assert [branch.verdict and branch.verdict.reward for branch in graded.branches] == [1.0, 0.0]
    await redis.aclose()


SLOW = Problem("slow", Domain.CODE, "Wait.", tests=CallTests(fn_name="f", cases=({"args": [], "result": 1},)))
WAITS = "import time\ndef f():\n    time.sleep(2)\n    return 1"


async def test_a_process_that_is_told_to_stop_answers_what_is_under_way(
    redis_server: str, unused_tcp_port: int
) -> None:
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.verifier", "--redis-url", redis_server, "--port", str(unused_tcp_port)),
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'gen'}"},
    )
    async with asyncio.timeout(60), aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        watching = health.Watch(request, wait_for_ready=True)
        async for answer in watching:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        watching.cancel()  # a call that stays open delays the end
        stub: rpc.VerifierServiceAsyncStub = rpc.VerifierServiceStub(channel)
        verdict = (await stub.Verify(verify("#### 7"))).verdict
        assert codec.decode_verdict(verdict).outcome is Outcome.CORRECT
        asked = pb.VerifyRequest(problem=problem_codec.encode_problem(SLOW), response=WAITS)
        under_way = asyncio.ensure_future(stub.Verify(asked))
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert codec.decode_verdict((await under_way).verdict).outcome is Outcome.CORRECT
        assert await process.wait() == 0
