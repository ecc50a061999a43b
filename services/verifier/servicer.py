"""VerifierService over gRPC: decode, call, encode."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from services.common import codec
from services.common.errors import OverloadedError, UnavailableError
from services.common.grpc_server import Context
from services.common.verdict import Verdict
from services.verifier.grading import Grader
from services.verifier.settings import VerifierSettings
from treerl.common.v1 import verdict_pb2
from treerl.verifier.v1 import verifier_service_pb2 as pb
from treerl.verifier.v1 import verifier_service_pb2_grpc as rpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name

MAX_BATCH_IN_FLIGHT = 64
"""Responses of one batch call graded at once; the next is read when one is done, so no client starves others."""


class VerifierServicer(rpc.VerifierServiceServicer):
    """Answers nothing but UNAVAILABLE until `attach` gives it a grader."""

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        self._attached: Grader | None = None

    def attach(self, grader: Grader) -> None:
        """Begin to answer."""
        self._attached = grader

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        problem = codec.decode_problem(request.problem)
        verdict = await self._ready(1).grade(problem, request.response, codec.decode_limits(request.limits))
        return pb.VerifyResponse(verdict=_encode_verdict(verdict, request.detail))

    async def VerifyTree(self, request: pb.VerifyTreeRequest, context: Context) -> pb.VerifyTreeResponse:
        tree = codec.decode_tree(request.tree)
        graded = await self._ready(len(tree.branches)).grade_tree(tree)
        return pb.VerifyTreeResponse(tree=codec.encode_tree(graded))

    async def VerifyBatch(
        self, requests: AsyncIterator[pb.VerifyBatchRequest], context: Context
    ) -> AsyncIterator[pb.VerifyBatchResponse]:
        answered: asyncio.Queue[asyncio.Task[pb.VerifyBatchResponse] | None] = asyncio.Queue()
        reading = asyncio.create_task(self._grade_batch(requests, answered))
        try:
            while (task := await answered.get()) is not None:
                if not task.cancelled():  # as the gradings are that go on when a request cannot be read
                    yield task.result()
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        grader = self._ready(0)
        return pb.GetStatusResponse(
            isolation_level=pb.IsolationLevel.ValueType(grader.isolation_level),
            in_flight=grader.in_flight,
            graded=grader.graded,
        )

    async def _grade_batch(
        self,
        requests: AsyncIterator[pb.VerifyBatchRequest],
        answered: asyncio.Queue[asyncio.Task[pb.VerifyBatchResponse] | None],
    ) -> None:
        """Grade requests as they come; puts each grading there when it is done, and None after the last.

        Raises:
            InvalidRequestError: a request cannot be read or graded.
        """
        window = asyncio.Semaphore(MAX_BATCH_IN_FLIGHT)
        try:
            async with asyncio.TaskGroup() as gradings:
                async for request in requests:
                    await window.acquire()
                    task = gradings.create_task(self._verify_one(request))
                    task.add_done_callback(answered.put_nowait)
                    task.add_done_callback(lambda _: window.release())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        finally:
            answered.put_nowait(None)

    async def _verify_one(self, request: pb.VerifyBatchRequest) -> pb.VerifyBatchResponse:
        problem = codec.decode_problem(request.problem)
        verdict = await self._ready(0).grade(problem, request.response, codec.decode_limits(request.limits))
        return pb.VerifyBatchResponse(index=request.index, verdict=_encode_verdict(verdict, request.detail))

    def _ready(self, gradings: int) -> Grader:
        """The grader, if it can take so many more gradings; calls that wait by themselves ask for 0."""
        if self._attached is None:
            raise UnavailableError("the graders are still starting; wait until the health service says SERVING")
        if gradings and self._attached.in_flight + gradings > self._settings.max_gradings:
            raise OverloadedError(
                f"{self._attached.in_flight} gradings are under way and {self._settings.max_gradings} allowed; "
                "try again, or use VerifyBatch, which waits"
            )
        return self._attached


def _encode_verdict(verdict: Verdict, detail: pb.Detail.ValueType) -> verdict_pb2.Verdict:
    return codec.encode_verdict(verdict if detail == pb.DETAIL_CASES else replace(verdict, cases=()))
