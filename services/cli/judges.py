"""Who judges an answer: graders in processes of this command, or a running verifier."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from grpc import aio

from services.cli.remote import connected, told
from services.common import codec, problem_codec
from services.common.errors import InvalidRequestError
from services.common.grpc_server import MAX_MESSAGE_BYTES
from services.common.overload import patiently
from services.common.problem import Problem
from services.common.verdict import Limits, Verdict
from treerl.verifier.v1 import verifier_service_pb2 as verifier_pb2
from treerl.verifier.v1 import verifier_service_pb2_grpc as verifier_grpc


class Judge(Protocol):
    """Grades responses, many at once."""

    async def grade(self, problem: Problem, response: str, limits: Limits | None = None) -> Verdict:
        """Grade one response.

        Args:
            problem: with its gold answer or tests.
            response: the whole response.
            limits: bounds; a zero, or None for all, means the grader's default.

        Raises:
            InvalidRequestError: the problem or the limits can never be graded.
        """


class RemoteJudge:
    """A verifier at an address."""

    def __init__(self, channel: aio.Channel, address: str) -> None:
        self._stub: verifier_grpc.VerifierServiceAsyncStub = verifier_grpc.VerifierServiceStub(channel)
        self._address = address

    async def grade(self, problem: Problem, response: str, limits: Limits | None = None) -> Verdict:
        """See `Judge.grade`.

        Raises:
            InvalidRequestError: as there, or they are too large to be sent.
            UnavailableError: no verifier answers.
        """
        request = verifier_pb2.VerifyRequest(problem=problem_codec.encode_problem(problem), response=response)
        if limits is not None:
            request.limits.CopyFrom(codec.encode_limits(limits))
        if request.ByteSize() > MAX_MESSAGE_BYTES:
            raise InvalidRequestError(
                f"{request.ByteSize()} bytes are too many for a call, which may have {MAX_MESSAGE_BYTES}: judge it "
                "without --verifier"
            )
        try:
            reply = await patiently(lambda: self._stub.Verify(request))
        except aio.AioRpcError as error:
            raise told(error, "verifier", self._address) from error
        return codec.decode_verdict(reply.verdict)


@asynccontextmanager
async def open_judge(address: str | None, config: Path | None = None) -> AsyncIterator[Judge]:
    """The verifier at an address; for None a grader of this command's own, which ends with it.

    Args:
        address: of a verifier.
        config: TOML file whose `[verifier]` table configures a grader of one's own.
    """
    if address is not None:
        async with connected(address) as channel:
            yield RemoteJudge(channel, address)
        return
    from services.common.settings import load_settings
    from services.verifier.grading import Grader
    from services.verifier.settings import VerifierSettings

    grader = Grader(load_settings(VerifierSettings, config))
    try:
        await grader.start()
        yield grader
    finally:
        await grader.close()
