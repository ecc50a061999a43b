"""Batches of tree requests on their way out, and their graded trees on the way back.

A batch is named after the weights' state it belongs to: `step-00012` holds the trees that step 12 trains on,
`step-00012.1` those of its first refill, `evaluation-00010` the answers of version 10. Tree i of a batch is
`{batch}/{i}`. An entry of the graded stream is acknowledged only by `commit`, after a durable checkpoint covers its
batch; until then a restart finds it again.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from services.common import codec
from services.common.errors import InvalidRequestError, UnavailableError
from services.common.problem import Problem
from services.common.streams import GRADED, PROMPTS, TREES, DeadLetter, Entry, Streams
from services.common.tree import Tree, TreeRequest
from services.trainer.settings import TrainerSettings
from treerl.common.v1 import tree_pb2

_READ_COUNT = 64
"""Graded trees taken at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rollout:
    """What came back of a batch.

    Attributes:
        trees: in the order of the requests.
        missing: requests that were given up on the way.
        wait_s: time from the request to the last tree.
        queue_prompts: entries waiting in the prompts stream when the wait began.
        queue_trees: entries waiting in the trees stream then.
    """

    trees: tuple[Tree, ...]
    missing: tuple[DeadLetter, ...]
    wait_s: float
    queue_prompts: int
    queue_trees: int

    def require(self) -> "Rollout":
        """Itself.

        Raises:
            UnavailableError: every tree was given up.
        """
        if not self.trees:
            first = self.missing[0]
            raise UnavailableError(
                f"all {len(self.missing)} trees of {batch_of(first.tree_id)} were given up; the first: {first.reason}"
            )
        return self


@dataclass(slots=True)
class _Batch:
    """What has come back of a batch so far: trees by id, and all positions to acknowledge in the end."""

    trees: dict[str, Tree] = field(default_factory=dict)
    positions: list[bytes] = field(default_factory=list)


def step_requests(
    problems: Sequence[Problem], settings: TrainerSettings, step: int, refill: int = 0
) -> list[TreeRequest]:
    """Requests for trees that a step trains on, from weights at most `max_policy_lag` older than those it trains.

    Args:
        problems: one for each tree.
        settings: of the run.
        step: the first is 1; it trains the weights of version `step - 1`.
        refill: which of the step's refills; 0 for what it asks at first.
    """
    batch = f"step-{step:05d}.{refill}" if refill else f"step-{step:05d}"
    ids = [f"{batch}/{index}" for index in range(len(problems))]
    search = settings.search.parameters()
    oldest = max(0, step - 1 - settings.max_policy_lag)
    return [
        TreeRequest(
            tree_id, problem, search, settings.sampling.parameters(derived_seed(settings.seed, tree_id)), oldest
        )
        for tree_id, problem in zip(ids, problems, strict=True)
    ]


def derived_seed(run_seed: int, purpose: str) -> int:
    """Seed of one purpose of a run, in 32 bits, which leave an engine room to derive its own."""
    digest = hashlib.sha256(f"{run_seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:4])


def decoded_tokens(trees: Sequence[Tree]) -> int:
    """Tokens that the engine sampled."""
    return sum(len(branch.token_ids) for tree in trees for branch in tree.branches)


def batch_of(tree_id: str) -> str:
    """Name of the batch that a tree belongs to."""
    return tree_id.rpartition("/")[0]


def state_of(batch: str) -> int:
    """Step or version that a batch belongs to."""
    return int(batch.rpartition("-")[2].partition(".")[0])


class Rollouts:
    """One run's batches."""

    def __init__(self, streams: Streams, timeout_s: float) -> None:
        """
        Args:
            streams: the run's streams, under a consumer name that stays the same after a restart.
            timeout_s: longest wait without a single tree, in seconds.
        """
        self._streams = streams
        self._timeout_s = timeout_s
        self._batches: dict[str, _Batch] = {}
        self._collected: list[str] = []

    async def start_afresh(self) -> None:
        """Forget whatever an earlier run of this name left in the streams."""
        await self._streams.reset()

    async def go_on(self, checkpoint_step: int) -> None:
        """Take up the graded trees that an earlier life of this run took but did not commit.

        Args:
            checkpoint_step: step that the checkpoint covers; batches up to it are committed now. If a later one was
                committed before, trees that are needed again are gone, and what waits in the streams asks for weights
                that are not there yet: all is asked anew.
        """
        covered_before = await self._streams.covered()
        if covered_before > checkpoint_step:
            log.warning("later steps are sampled again", checkpoint=checkpoint_step, committed=covered_before)
            await self._streams.reset()
            return
        await self._streams.create()
        after: bytes | str = "0"
        while entries := await self._streams.unfinished(GRADED, after):
            after = entries[-1].position
            await self._take(entries)
        covered = [batch for batch in self._batches if state_of(batch) <= checkpoint_step]
        self._collected = covered
        await self.commit(checkpoint_step)

    async def request(self, requests: Sequence[TreeRequest]) -> None:
        """Ask for a batch; one that was asked for by an earlier life of this run is not asked for again."""
        payloads = [(request.tree_id, codec.encode_request(request).SerializeToString()) for request in requests]
        await self._streams.enqueue(batch_of(requests[0].tree_id), payloads)

    async def collect(self, requests: Sequence[TreeRequest]) -> Rollout:
        """Wait for every tree of a batch that was asked for, or for word that it was given up.

        Raises:
            UnavailableError: no tree came for `timeout_s` seconds.
        """
        name = batch_of(requests[0].tree_id)
        began = progressed = time.monotonic()
        queue_prompts, queue_trees = await self._streams.waiting(PROMPTS), await self._streams.waiting(TREES)
        batch = self._batches.setdefault(name, _Batch())
        wanted = [request.tree_id for request in requests]
        missing: dict[str, DeadLetter] = {}
        while len(batch.trees.keys() | missing.keys()) < len(wanted):
            entries = await self._streams.read(GRADED, _READ_COUNT)
            if entries:
                await self._take(entries)
                progressed = time.monotonic()
            elif time.monotonic() - progressed > self._timeout_s:
                raise UnavailableError(await self._stall(name, len(batch.trees), len(wanted)))
            else:
                missing = {d.tree_id: d for d in await self._streams.dead_letters() if d.tree_id in wanted}
        given_up = [letter for tree_id, letter in missing.items() if tree_id not in batch.trees]
        for letter in given_up:
            log.warning("a tree is missing", tree_id=letter.tree_id, stream=letter.stream, reason=letter.reason)
        self._collected.append(name)
        return Rollout(
            trees=tuple(batch.trees[tree_id] for tree_id in wanted if tree_id in batch.trees),
            missing=tuple(given_up),
            wait_s=time.monotonic() - began,
            queue_prompts=queue_prompts,
            queue_trees=queue_trees,
        )

    async def commit(self, checkpoint_step: int) -> None:
        """Acknowledge every batch collected so far: call it once a durable checkpoint of that step covers them."""
        await self._streams.set_covered(checkpoint_step)
        for name in self._collected:
            await self._streams.commit(name, self._batches.pop(name).positions)
        self._collected = []

    async def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            batch = self._batches.setdefault(batch_of(entry.tree_id), _Batch())
            try:
                tree = codec.decode_tree(codec.parse(tree_pb2.Tree, entry.payload))
            except InvalidRequestError as error:
                await self._streams.bury(GRADED, entry, str(error))
                continue
            batch.positions.append(entry.position)
            batch.trees.setdefault(entry.tree_id, tree)

    async def _stall(self, batch: str, arrived: int, wanted: int) -> str:
        depths = {stream: await self._streams.waiting(stream) for stream in (PROMPTS, TREES, GRADED)}
        waiting = ", ".join(f"{depth} in {stream}" for stream, depth in depths.items())
        return (
            f"no tree of {batch} came for {self._timeout_s:g} s: {arrived} of {wanted} are here; waiting: {waiting}; "
            "check that a sampler and a verifier are alive"
        )
