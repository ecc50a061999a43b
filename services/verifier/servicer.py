"""VerifierService over gRPC: decode, call, encode."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

from services.common import codec, problem_codec
from services.common.admission import Admission, Place
from services.common.errors import UnavailableError
from services.common.grpc_server import Context
from services.common.verdict import Verdict
from services.verifier.grading import Grader
from services.verifier.settings import VerifierSettings
from treerl.common.v1 import verdict_pb2
from treerl.verifier.v1 import verifier_service_pb2 as pb
from treerl.verifier.v1 import verifier_service_pb2_grpc as rpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name

MAX_BATCH_UNANSWERED = 64
"""Responses of one batch call that are being graded or whose verdict the client has not read; then no more are read."""


class VerifierServicer(rpc.VerifierServiceServicer):
    """Answers nothing but UNAVAILABLE until `attach` gives it a grader."""

    def __init__(self, settings: VerifierSettings) -> None:
        self._admission = Admission(settings.max_running_gradings, settings.max_waiting_calls)
        self._attached: Grader | None = None

    def attach(self, grader: Grader) -> None:
        """Begin to answer."""
        self._attached = grader

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        problem = problem_codec.decode_problem(request.problem)
        grader = self._ready()
        async with self._admission.admit(context.peer(), 1):
            verdict = await grader.grade(problem, request.response, codec.decode_limits(request.limits))
        return pb.VerifyResponse(verdict=_encode_verdict(verdict, request.detail))

    async def VerifyTree(self, request: pb.VerifyTreeRequest, context: Context) -> pb.VerifyTreeResponse:
        tree = codec.decode_tree(request.tree)
        grader = self._ready()
        async with self._admission.admit(context.peer(), len(tree.branches)):
            graded = await grader.grade_tree(tree)
        return pb.VerifyTreeResponse(tree=codec.encode_tree(graded))

    async def VerifyBatch(
        self, requests: AsyncIterator[pb.VerifyBatchRequest], context: Context
    ) -> AsyncIterator[pb.VerifyBatchResponse]:
        answered: asyncio.Queue[asyncio.Task[pb.VerifyBatchResponse] | None] = asyncio.Queue()
        window = asyncio.Semaphore(MAX_BATCH_UNANSWERED)
        reading = asyncio.create_task(self._grade_batch(requests, context.peer(), window, answered))
        try:
            while (task := await answered.get()) is not None:
                if not task.cancelled():  # as the gradings are that go on when a request cannot be read
                    yield task.result()
                window.release()
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        grader = self._ready()
        return pb.GetStatusResponse(
            isolation_level=pb.IsolationLevel.ValueType(grader.isolation_level),
            in_flight=grader.in_flight,
            graded=grader.graded,
        )

    async def _grade_batch(
        self,
        requests: AsyncIterator[pb.VerifyBatchRequest],
        client: str,
        window: asyncio.Semaphore,
        answered: asyncio.Queue[asyncio.Task[pb.VerifyBatchResponse] | None],
    ) -> None:
        """Grade requests as they come; puts each grading there when it is done, and None after the last.

        One request waits at a time. A batch that has begun waits for its turn, however many calls do.

        Raises:
            InvalidRequestError: a request cannot be read or graded.
            OverloadedError: too many calls wait already for the batch to begin.
        """
        begun = False
        try:
            async with asyncio.TaskGroup() as gradings:
                async for request in requests:
                    await window.acquire()
                    place = await self._admission.take(client, 1, refusable=not begun)
                    begun = True
                    task = gradings.create_task(self._verify_one(request))
                    task.add_done_callback(partial(_leave, place))
                    task.add_done_callback(answered.put_nowait)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        finally:
            answered.put_nowait(None)

    async def _verify_one(self, request: pb.VerifyBatchRequest) -> pb.VerifyBatchResponse:
        problem = problem_codec.decode_problem(request.problem)
        verdict = await self._ready().grade(problem, request.response, codec.decode_limits(request.limits))
        return pb.VerifyBatchResponse(index=request.index, verdict=_encode_verdict(verdict, request.detail))

    def _ready(self) -> Grader:
        if self._attached is None:
            raise UnavailableError("the graders are still starting; wait until the health service says SERVING")
        return self._attached


def _encode_verdict(verdict: Verdict, detail: pb.Detail.ValueType) -> verdict_pb2.Verdict:
    return codec.encode_verdict(verdict if detail == pb.DETAIL_CASES else replace(verdict, cases=()))


def _leave(place: Place, grading: asyncio.Task[pb.VerifyBatchResponse]) -> None:
    place.leave()
