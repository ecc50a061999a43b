r"""Best-first search by a client: Generate, Fork and Verify are all that a search strategy of your own needs.

Samples a few responses, has the verifier judge them, and forks the most promising one at its most surprising token,
again and again, until a response is correct or the budget is spent. With `treerl demo` or `treerl up` running:

    python examples/best_first_search.py --answer 4 \
        --prompt $'Start with 3 and keep the last digit:\n1. add 5\n2. square it\n'
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import typer
from grpc import aio

from services.cli.endpoints import Endpoints, current_run
from services.cli.remote import connected
from services.common import codec, problem_codec
from services.common.errors import TreerlError
from services.common.overload import patiently
from services.common.problem import Domain, Problem
from services.common.tree import Branch, FinishReason, SamplingParameters
from services.common.verdict import Outcome
from treerl.common.v1 import tree_pb2
from treerl.sampler.v1 import sampler_service_pb2 as sampler_pb2
from treerl.sampler.v1 import sampler_service_pb2_grpc as sampler_grpc
from treerl.verifier.v1 import verifier_service_pb2 as verifier_pb2
from treerl.verifier.v1 import verifier_service_pb2_grpc as verifier_grpc


@dataclass
class Candidate:
    """A response, what the verifier found, and where it was forked."""

    branch: Branch
    outcome: Outcome
    forked_at: set[int] = field(default_factory=set)

    @property
    def promise(self) -> tuple[bool, int, float]:
        """Whether an answer could be read, then how seldom it was forked, then its mean logprob in nats."""
        logprobs = self.branch.logprobs
        return self.outcome is Outcome.WRONG, -len(self.forked_at), sum(logprobs) / len(logprobs)

    @property
    def most_surprising(self) -> int | None:
        """Position of its least likely token that can be forked: not its first, not the end, none forked before."""
        branch = self.branch
        end = branch.end - (branch.finish_reason is FinishReason.STOP)
        positions = set(range(branch.fork_index + 1, end)) - self.forked_at
        return min(positions, key=lambda position: branch.logprobs[position - branch.fork_index], default=None)


@dataclass
class Search:
    """Best-first search for one problem on a sampler and a verifier."""

    sampler: sampler_grpc.SamplerServiceAsyncStub
    verifier: verifier_grpc.VerifierServiceAsyncStub
    problem: Problem

    async def run(self, sampling: SamplingParameters, chains: int, branches: int, budget: int) -> list[Candidate]:
        """All responses in the order of their ids; correct ones are among those sampled last."""
        asked = sampler_pb2.GenerateRequest(
            problem=problem_codec.encode_problem(self.problem),
            sampling=codec.encode_sampling(sampling),
            num_chains=chains,
        )
        tree = (await patiently(partial(self.sampler.Generate, asked))).tree
        candidates = await self._judge(tree.branches)
        while len(candidates) < budget and not any(c.outcome is Outcome.CORRECT for c in candidates):
            forkable = [(c.promise, position, c) for c in candidates if (position := c.most_surprising) is not None]
            if not forkable:
                break
            _, position, best = max(forkable, key=lambda fork: fork[0])
            best.forked_at.add(position)
            asked_fork = sampler_pb2.ForkRequest(
                tree_id=tree.tree_id,
                branch_id=best.branch.id,
                token_index=position,
                num_branches=min(branches, budget - len(candidates)),
            )
            candidates += await self._judge((await patiently(partial(self.sampler.Fork, asked_fork))).branches)
        await self.sampler.ReleaseTree(sampler_pb2.ReleaseTreeRequest(tree_id=tree.tree_id))
        return candidates

    async def _judge(self, messages: Iterable[tree_pb2.Branch]) -> list[Candidate]:
        return await asyncio.gather(*(self._judge_one(codec.decode_branch(message)) for message in messages))

    async def _judge_one(self, branch: Branch) -> Candidate:
        asked = verifier_pb2.VerifyRequest(
            problem=problem_codec.encode_problem(self.problem), response=branch.response_text
        )
        judged = await patiently(partial(self.verifier.Verify, asked))
        return Candidate(branch, codec.decode_verdict(judged.verdict).outcome)


Service = typer.Option(metavar="HOST:PORT", help="Service to ask.  [default: that of the current run]")


def main(
    prompt: Annotated[str, typer.Option(help="What to answer.")],
    answer: Annotated[str, typer.Option(help="The right answer.")],
    sampler: Annotated[str | None, Service] = None,
    verifier: Annotated[str | None, Service] = None,
    chains: Annotated[int, typer.Option(min=1, help="Responses to begin with.")] = 2,
    branches: Annotated[int, typer.Option(min=1, help="Responses from each fork.")] = 2,
    budget: Annotated[int, typer.Option(min=1, help="Responses after which the search gives up.")] = 32,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Softmax temperature.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Bound on a response, in tokens.")] = 64,
) -> None:
    """Fork the most promising response until one is correct; prints all, and exits with 1 if none is."""

    async def search() -> list[Candidate]:
        async with (
            connected(sampler or Endpoints.read(current_run()).samplers[0]) as to_sampler,
            connected(verifier or Endpoints.read(current_run()).verifiers[0]) as to_verifier,
        ):
            problem = Problem("example", Domain.MATH, prompt, answer)
            searching = Search(
                sampler_grpc.SamplerServiceStub(to_sampler), verifier_grpc.VerifierServiceStub(to_verifier), problem
            )
            sampling = SamplingParameters(temperature, 1.0, max_tokens)
            return await searching.run(sampling, chains, branches, budget)

    try:
        candidates = asyncio.run(search())
    except (TreerlError, aio.AioRpcError) as error:
        raise SystemExit(f"error: {error.details() if isinstance(error, aio.AioRpcError) else error}") from error
    for candidate in candidates:
        branch = candidate.branch
        origin = "chain" if branch.parent_id is None else f"fork of {branch.parent_id} at {branch.fork_index}"
        print(f"{branch.id:3} {origin:15} {candidate.outcome.name:9} {branch.response_text!r}")
    raise typer.Exit(not any(candidate.outcome is Outcome.CORRECT for candidate in candidates))


if __name__ == "__main__":
    typer.run(main)
