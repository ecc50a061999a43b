"""A stand-in for samplers and verifiers at the trainer's service boundary: real streams, real gRPC, a real tiny model.

It invents responses instead of sampling them, but states their true log-probabilities under the weights it was given.
"""

import asyncio
import copy
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import torch
from grpc import aio
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from services.common import codec, published_weights
from services.common.broadcast_group import GlooGroup, join
from services.common.cancellation import cancel
from services.common.streams import GRADED, PROMPTS, Streams, connect
from services.common.tensor_layout import TORCH_TYPES
from services.common.tree import Branch, FinishReason, Tree, TreeRequest, VersionSpan, path_tokens
from services.common.verdict import Outcome, Verdict
from services.common.weight_broadcast import Broadcast, Rendezvous, decode_broadcast
from treerl.common.v1 import tree_pb2
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1.sampler_service_pb2_grpc import SamplerServiceServicer, add_SamplerServiceServicer_to_server

GOOD_TOKEN = 5
"""A response is correct if its last token is this or a greater one."""

VOCABULARY = 16


def write_tiny_model(folder: Path, hidden_size: int = 32, layers: int = 2) -> None:
    """Write a random Qwen2 model with tied embeddings, and a tokenizer of digits and signs."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({sign: i for i, sign in enumerate("$0123456789+-*/=")}, unk_token="$"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="$", pad_token="$").save_pretrained(folder)


class FakeSampler(SamplerServiceServicer):
    """Serves LoadCheckpoint and turns prompts into graded trees.

    Attributes:
        name: of this sampler, as its trees say.
        served: tree ids in the order in which they were graded.
        versions: versions that were loaded.
        stale: loads are acknowledged but the old weights stay, as a broken engine would do.
        forged_checksum: what is echoed in place of the true checksum.
        forged_canary: what is reported in place of the true canary difference.
        complaint: why loads are answered with DATA_LOSS, if they are.
        in_flight: modes of the loads asked for.
        held_back: tree ids that are never answered.
        poisoned: tree ids that are given up.
        refusals: loads that are still to be answered with UNAVAILABLE, as by a process that is starting.
        idle_from: version from whose load on prompts are handed back.
        drains: loads wait until every prompt that was asked for is answered.
        outdated: tree ids that are sampled by the weights of version 0, whatever is asked.
        uniform: whether all leaves of a tree of that id are to be correct.
        breaks_off: tensors of the next broadcast after which it leaves the group, once; None for all.
        hangs: loads are never answered.
        restarts_from: versions from which it goes back to the first one once they are loaded, once each.
        broadcast_ranks: places that it takes in a broadcast.
    """

    def __init__(self, model: Path, name: str = "fake") -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(model)
        self._version = 0
        self._first_model = self._model
        self._answered = asyncio.Event()
        self.name = name
        self.served: list[str] = []
        self.versions: list[int] = []
        self.stale = False
        self.forged_checksum = ""
        self.forged_canary: float | None = None
        self.complaint = ""
        self.in_flight: list[pb.InFlightMode] = []
        self.held_back: set[str] = set()
        self.poisoned: set[str] = set()
        self.refusals = 0
        self.idle_from = math.inf
        self.drains = False
        self.outdated: set[str] = set()
        self.uniform: Callable[[str], bool] = lambda tree_id: False
        self.breaks_off: int | None = None
        self.hangs = False
        self.restarts_from: set[int] = set()
        self.broadcast_ranks = 1
        self._checksum = ""

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(
            policy_version=self._version, checksum=self._checksum, broadcast_ranks=self.broadcast_ranks
        )

    async def LoadCheckpoint(self, request: pb.LoadCheckpointRequest, context: Any) -> pb.LoadCheckpointResponse:
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the model is still loading")
        if self.complaint:
            await context.abort(grpc.StatusCode.DATA_LOSS, self.complaint)
        self.in_flight.append(request.in_flight)
        if self.drains:
            await self._answered.wait()
        if self.hangs:
            await asyncio.Event().wait()
        if request.HasField("broadcast"):
            weights, place = decode_broadcast(request, self.broadcast_ranks, "gloo")
            try:
                received = await asyncio.to_thread(self._receive, weights, place)
            except (OSError, RuntimeError) as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error).partition("\n")[0])
            if not self.stale:
                self._model = received
        else:
            weights = published_weights.read(Path(request.location))
            if not self.stale:
                self._model = AutoModelForCausalLM.from_pretrained(request.location)
        differences = [
            abs(ours - theirs)
            for canary in weights.canaries
            for ours, theirs in zip(_logprobs(self._model, canary.token_ids), canary.logprobs, strict=True)
        ]
        self._version, self._checksum = request.policy_version, weights.checksum
        self.versions.append(self._version)
        if self._version in self.restarts_from:
            self.restarts_from.remove(self._version)
            self._model, self._version, self._checksum = self._first_model, 0, ""
        canary = 0.0 if self.stale else max(differences)
        return pb.LoadCheckpointResponse(
            policy_version=request.policy_version,
            checksum=self.forged_checksum or weights.checksum,
            canary_max_abs_logprob_diff=canary if self.forged_canary is None else self.forged_canary,
            pause_s=0.01,
        )

    def _receive(self, weights: Broadcast, place: Rendezvous) -> Any:
        """A model with the weights that are sent."""
        join(place.host, place.port)
        group = GlooGroup.receiving(place.host, place.port, place.first_rank, place.world_size)
        tensors = {}
        try:
            for number, (name, kind) in enumerate(weights.layout.items()):
                if number == self.breaks_off:
                    self.breaks_off = None
                    raise RuntimeError("the sampler died")
                tensors[name] = torch.empty(kind.shape, dtype=getattr(torch, TORCH_TYPES[kind.dtype]))
                group.broadcast(tensors[name])
        finally:
            group.destroy()
        model = copy.deepcopy(self._model)
        model.load_state_dict(tensors, strict=False)  # a tied output layer is not sent
        return model

    async def work(self, redis_url: str, run: str) -> None:
        """Answer the prompts of a run for ever."""
        streams = Streams(await connect(redis_url), run, self.name)
        await streams.create()
        while True:
            entries = await streams.read(PROMPTS, 8)
            if self._version >= self.idle_from:
                for entry in entries:
                    await streams.hand_back(PROMPTS, entry)
                await asyncio.sleep(0.02)
                continue
            if entries:
                self._answered.clear()
            else:
                self._answered.set()
            for entry in entries:
                request = codec.decode_request(codec.parse(tree_pb2.TreeRequest, entry.payload))
                if request.tree_id in self.held_back:
                    continue
                if request.tree_id in self.poisoned:
                    await streams.bury(PROMPTS, entry, "the prompt is too long")
                    continue
                while self._version < request.min_policy_version:
                    await asyncio.sleep(0.01)
                tree = self.tree(request)
                self.served.append(request.tree_id)
                await streams.complete(PROMPTS, entry, GRADED, codec.encode_tree(tree).SerializeToString())

    def tree(self, request: TreeRequest) -> Tree:
        """A tree of random tokens for a request: the same one for the same seed and weights."""
        rng = random.Random(f"{request.tree_id} {request.sampling.seed}")
        search, outdated = request.search, request.tree_id in self.outdated
        version, model = (0, self._first_model) if outdated else (self._version, self._model)
        branches: list[Branch] = []
        for _ in range(search.chains):
            chain = self._branch(rng, branches, None, 0)
            for _ in range(search.forks * search.rounds * search.branches):
                self._branch(rng, branches, chain, rng.randrange(1, chain.end))
        prompt = tuple(rng.randrange(1, VOCABULARY) for _ in range(4))
        told = []
        for branch in branches:
            logprobs = _logprobs(model, (*prompt, *path_tokens(branches, branch.id)))[-len(branch.token_ids) :]
            span = VersionSpan(version, len(branch.token_ids))
            verdict = Verdict(Outcome.CORRECT, "", 0.1) if self.uniform(request.tree_id) else branch.verdict
            told.append(replace(branch, logprobs=logprobs, versions=(span,), verdict=verdict))
        return Tree(
            request.tree_id, request.problem, search, request.sampling, prompt, tuple(told), 0.01, sampler=self.name
        )

    def _branch(self, rng: random.Random, branches: list[Branch], parent: Branch | None, fork_index: int) -> Branch:
        tokens = tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randrange(2, 8)))
        outcome = Outcome.CORRECT if tokens[-1] >= GOOD_TOKEN else Outcome.WRONG
        branch = Branch(
            id=len(branches),
            parent_id=None if parent is None else parent.id,
            fork_index=fork_index,
            token_ids=tokens,
            logprobs=(),
            entropies=(),
            versions=(),
            finish_reason=FinishReason.STOP,
            response_text="",
            verdict=Verdict(outcome, "", 0.1),
        )
        branches.append(branch)
        return branch


@torch.no_grad()
def _logprobs(model: Any, token_ids: Sequence[int]) -> tuple[float, ...]:
    ids = torch.tensor([token_ids])
    logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    return tuple(logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist())


@asynccontextmanager
async def serving(sampler: FakeSampler, redis_url: str, run: str) -> AsyncIterator[str]:
    """Run a fake sampler; gives its gRPC address."""
    server = aio.server()
    add_SamplerServiceServicer_to_server(sampler, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    working = asyncio.create_task(sampler.work(redis_url, run))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await cancel(working)
        await server.stop(None)
