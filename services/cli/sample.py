"""`treerl sample`: responses, or a tree of them, from a running sampler."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpc import aio
from rich.console import Console
from rich.text import Text
from rich.tree import Tree as TreeLines

from services.cli.endpoints import Endpoints, current_run
from services.cli.remote import connected, told
from services.cli.segment_text import load_tokenizer, segment_texts, token_text
from services.common import codec, problem_codec
from services.common.errors import NotFoundError, UnavailableError
from services.common.overload import patiently
from services.common.problem import Domain, Problem
from services.common.tree import (
    Branch,
    FinishReason,
    SamplingParameters,
    SearchParameters,
    Segment,
    Tree,
    TreeRequest,
    segments,
)
from treerl.sampler.v1 import sampler_service_pb2 as sampler_pb2
from treerl.sampler.v1 import sampler_service_pb2_grpc as sampler_grpc

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """What to ask, and whom.

    Attributes:
        prompt: the problem's text.
        address: of the sampler; None asks the first one of the current run.
        search: shape of the tree; its chains alone where `tree` is off.
        sampling: how tokens are drawn.
    """

    prompt: str
    address: str | None
    search: SearchParameters
    sampling: SamplingParameters


async def sample_tree(options: SampleOptions, console: Console) -> None:
    """Search a tree and print it.

    Raises:
        TreerlError: no sampler is known or answers, or it refuses.
    """
    address = options.address or _current_sampler()
    request = TreeRequest(f"cli-{uuid.uuid4().hex}", _problem(options.prompt), options.search, options.sampling)
    message = sampler_pb2.SearchTreeRequest(request=codec.encode_request(request))
    try:
        async with connected(address) as channel:
            stub: sampler_grpc.SamplerServiceAsyncStub = sampler_grpc.SamplerServiceStub(channel)

            async def search() -> list[Tree]:
                events = [event async for event in stub.SearchTree(message)]
                return [codec.decode_tree(event.tree) for event in events if event.HasField("tree")]

            trees = await patiently(search)
            status = await stub.GetStatus(sampler_pb2.GetStatusRequest())
    except aio.AioRpcError as error:
        raise told(error, "sampler", address) from error
    if not trees:
        raise UnavailableError(f"the sampler at {address} ended the search without a tree: try again")
    console.print(tree_lines(trees[-1], load_tokenizer(Path(status.model) / "tokenizer.json")))


async def sample_responses(options: SampleOptions, console: Console) -> None:
    """Sample independent responses and print them.

    Raises:
        TreerlError: no sampler is known or answers, or it refuses.
    """
    address = options.address or _current_sampler()
    request = sampler_pb2.GenerateRequest(
        problem=problem_codec.encode_problem(_problem(options.prompt)),
        sampling=codec.encode_sampling(options.sampling),
        num_chains=options.search.chains,
    )
    try:
        async with connected(address) as channel:
            stub: sampler_grpc.SamplerServiceAsyncStub = sampler_grpc.SamplerServiceStub(channel)
            response = await patiently(lambda: stub.Generate(request))
            await stub.ReleaseTree(sampler_pb2.ReleaseTreeRequest(tree_id=response.tree.tree_id))
    except aio.AioRpcError as error:
        raise told(error, "sampler", address) from error
    tree = codec.decode_tree(response.tree)
    for branch in tree.branches:
        if len(tree.branches) > 1:
            console.rule(f"response {branch.id + 1}", align="left", style="dim")
        console.print(branch.response_text, markup=False, highlight=False, soft_wrap=True)


def tree_lines(tree: Tree, tokenizer: "Tokenizer | None") -> TreeLines:
    """A tree as indented lines: a segment each, forks marked with the token that was resampled and its surprisal."""
    texts = segment_texts(tree.branches, tokenizer)
    lines = TreeLines(Text(tree.problem.prompt.strip(), style="bold"), guide_style="dim")
    nodes: dict[int | None, TreeLines] = {None: lines}
    for segment in segments(tree.branches):
        nodes[segment.id] = nodes[segment.parent_id].add(_segment_line(tree, segment, texts[segment.id], tokenizer))
    leaves, tokens = len(tree.branches), sum(len(branch.token_ids) for branch in tree.branches)
    lines.add(Text(f"{leaves} leaves, {tokens} tokens sampled in {tree.sample_s:.2f} s", style="dim"))
    return lines


def _segment_line(tree: Tree, segment: Segment, text: str, tokenizer: "Tokenizer | None") -> Text:
    branch = tree.branches[segment.branch_id]
    line = Text()
    if segment.start > branch.fork_index:
        # the old way on: its first token is the one that the others were resampled from
        surprisal = -branch.logprobs[segment.start - branch.fork_index]
        token = token_text(tree.branches, segment, tokenizer)
        line.append(f"◆ {f'{token!r} ' if token else ''}{surprisal:.2f} nats: ", style="yellow")
    elif segment.parent_id is not None:
        line.append("◇ ", style="yellow")
    line.append(text.replace("\n", "↵"))
    if segment.end == branch.end:
        line.append(f"  ▪ {_end(branch)}", style="green" if branch.finish_reason is FinishReason.STOP else "red")
    return line


def _end(branch: Branch) -> str:
    """Why a branch ended, in a few words."""
    if branch.finish_reason is FinishReason.LENGTH:
        return "cut at the token budget"
    match branch.stop_reason:
        case str(string):
            return f"stop string {string!r}"
        case int(token_id):
            return f"stop token {token_id}"
    return "end"


def _problem(prompt: str) -> Problem:
    return Problem(id=f"cli-{uuid.uuid4().hex}", domain=Domain.MATH, prompt=prompt, answer="")


def _current_sampler() -> str:
    run = current_run()
    samplers = Endpoints.read(run).samplers
    if not samplers:
        raise NotFoundError(f"the run in {run} has no sampler: name one with --sampler HOST:PORT")
    return samplers[0]
