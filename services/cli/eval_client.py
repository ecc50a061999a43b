"""Asks questions of samplers and judges the responses, many at once."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle

import grpc
from grpc import aio

from services.cli.eval_questions import Drawing, Question
from services.cli.eval_responses import REFUSED, Response
from services.cli.judges import Judge
from services.cli.remote import told
from services.common import codec
from services.common.errors import UnavailableError
from services.common.overload import patiently
from services.common.tree import Branch
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

IN_FLIGHT = 192
"""Responses under way at once: enough for an engine of 128 sequences while others are judged."""


class SamplerClient:
    """A sampler at an address."""

    def __init__(self, channel: aio.Channel, address: str) -> None:
        self.address = address
        self._stub: rpc.SamplerServiceAsyncStub = rpc.SamplerServiceStub(channel)

    async def respond(self, question: Question, drawing: Drawing) -> Branch | str:
        """A response, or why the sampler can give none to this prompt.

        Raises:
            TreerlError: it does not answer, or fails.
        """
        message = pb.SearchTreeRequest(request=codec.encode_request(question.request(drawing)))

        async def search() -> list[Branch]:
            return [
                branch
                async for event in self._stub.SearchTree(message)
                if event.HasField("tree")
                for branch in codec.decode_tree(event.tree).branches
            ]

        try:
            branches = await patiently(search)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return error.details() or "no reason was given"
            raise told(error, "sampler", self.address) from error
        if not branches:
            raise UnavailableError(f"the sampler at {self.address} ended a search without a response: try again")
        return branches[0]


async def ask_all(
    questions: Iterable[Question],
    drawing: Drawing,
    samplers: Sequence[SamplerClient],
    judge: Judge,
    on_response: Callable[[Response], None],
) -> None:
    """Ask every question, samplers in turn; `on_response` is called with each response once it is graded.

    Raises:
        TreerlError: a sampler or the verifier fails; what was graded until then has been told.
    """
    left = zip(questions, cycle(samplers), strict=False)  # shared: each worker takes the next one

    async def work() -> None:
        for question, sampler in left:
            on_response(await _answer(question, drawing, sampler, judge))

    workers = [asyncio.create_task(work()) for _ in range(IN_FLIGHT)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _answer(question: Question, drawing: Drawing, sampler: SamplerClient, judge: Judge) -> Response:
    problem = question.problem
    place = (question.data, problem.id, problem.category, question.sample)
    branch = await sampler.respond(question, drawing)
    if isinstance(branch, str):
        return Response(*place, REFUSED, branch, "", "", 0, "", None)
    verdict = await judge.grade(problem, branch.response_text)
    return Response(
        *place,
        outcome=verdict.outcome.name,
        reason=verdict.reason,
        answer=verdict.answer,
        response=branch.response_text,
        tokens=len(branch.token_ids),
        finish=branch.finish_reason.name,
        policy_version=branch.versions[0].policy_version,
    )
