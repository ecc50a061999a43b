"""SamplerService over gRPC: decode, call, encode."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from services.common import codec, problem_codec
from services.common.admission import Admission
from services.common.errors import InvalidRequestError, PreconditionError, UnavailableError
from services.common.grpc_server import Context
from services.common.tree import Branch, SearchParameters, Tree, TreeRequest
from services.common.weight_broadcast import decode_broadcast
from services.sampler.engine import Engine, InFlight
from services.sampler.eptree import search
from services.sampler.growing_tree import GrowingTree
from services.sampler.held_trees import HeldTrees
from services.sampler.prompts import PromptCodec
from services.sampler.request_limits import RequestLimits
from services.sampler.settings import SamplerSettings
from services.sampler.siblings import together
from services.sampler.vllm_arguments import broadcast_backend
from services.sampler.weights import ServedWeights
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["SamplerService"].full_name


class SamplerServicer(rpc.SamplerServiceServicer):
    """Answers nothing but UNAVAILABLE until `attach` gives it an engine.

    Calls that sample are checked against the limits, then wait for their turn. One that is cancelled, whose deadline
    passes or whose client is gone leaves the queue, or ends its engine requests, at once.
    """

    def __init__(self, settings: SamplerSettings) -> None:
        self._settings = settings
        self._limits = RequestLimits(settings)
        self._admission = Admission(settings.max_running_leaves, settings.max_waiting_calls)
        self._held = HeldTrees(settings.max_held_trees, settings.max_held_tokens, settings.held_tree_ttl_s)
        takes_broadcasts = settings.weights_transport == "broadcast"
        self._broadcast_ranks = settings.tensor_parallel * settings.data_parallel if takes_broadcasts else 0
        self._attached: tuple[Engine, PromptCodec, ServedWeights] | None = None
        self._searching: set[asyncio.Task[Tree]] = set()

    def attach(self, engine: Engine, prompts: PromptCodec, weights: ServedWeights) -> None:
        """Begin to answer."""
        self._attached = (engine, prompts, weights)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        engine, prompts, _ = self._ready()
        if request.num_chains < 1:
            raise InvalidRequestError("num_chains is 0: expected at least 1")
        tree_request = TreeRequest(
            tree_id=f"held-{uuid.uuid4().hex}",
            problem=problem_codec.decode_problem(request.problem),
            search=SearchParameters(chains=request.num_chains),
            sampling=codec.decode_sampling(request.sampling),
        )
        self._limits.check(tree_request)
        growing = GrowingTree(engine, prompts, tree_request)
        async with self._admission.admit(context.peer(), request.num_chains):
            with growing.in_flight():
                await together(growing.sample_chain(number) for number in range(request.num_chains))
        self._held.hold(growing)
        return pb.GenerateResponse(tree=codec.encode_tree(growing.tree()))

    async def Fork(self, request: pb.ForkRequest, context: Context) -> pb.ForkResponse:
        self._ready()
        if request.num_branches < 1:
            raise InvalidRequestError("num_branches is 0: expected at least 1")
        with self._held.using(request.tree_id) as growing:
            growing.fork_parent(request.branch_id, request.token_index)  # what is wrong is told before the wait
            self._limits.check_growth(growing, request.num_branches)
            async with self._admission.admit(context.peer(), request.num_branches):
                self._limits.check_growth(growing, request.num_branches)  # others may have forked it meanwhile
                branches = await growing.fork(request.branch_id, request.token_index, request.num_branches)
        return pb.ForkResponse(branches=[codec.encode_branch(branch) for branch in branches])

    async def GetTree(self, request: pb.GetTreeRequest, context: Context) -> pb.GetTreeResponse:
        self._ready()
        with self._held.using(request.tree_id) as growing:
            return pb.GetTreeResponse(tree=codec.encode_tree(growing.tree()))

    async def ReleaseTree(self, request: pb.ReleaseTreeRequest, context: Context) -> pb.ReleaseTreeResponse:
        self._ready()
        self._held.release(request.tree_id)
        return pb.ReleaseTreeResponse()

    async def SearchTree(self, request: pb.SearchTreeRequest, context: Context) -> AsyncIterator[pb.SearchTreeResponse]:
        engine, prompts, weights = self._ready()
        tree_request = codec.decode_request(request.request)
        self._limits.check(tree_request)
        if tree_request.min_policy_version > weights.policy_version:
            raise PreconditionError(
                f"version {weights.policy_version} is served, at least {tree_request.min_policy_version} is asked for: "
                "wait until the trainer has published it"
            )
        async with self._admission.admit(context.peer(), tree_request.search.max_leaves):
            # holds no more than the tree does, and a client that reads slowly keeps its place among those admitted
            events: asyncio.Queue[Branch | None] = asyncio.Queue()
            searching = asyncio.create_task(search(engine, prompts, tree_request, events.put_nowait))
            searching.add_done_callback(lambda _: events.put_nowait(None))
            self._searching.add(searching)
            try:
                while (branch := await events.get()) is not None:
                    yield pb.SearchTreeResponse(branch=codec.encode_branch(branch))
                yield pb.SearchTreeResponse(tree=codec.encode_tree(await searching))
            finally:
                self._searching.discard(searching)
                searching.cancel()
                await asyncio.wait([searching])

    async def LoadCheckpoint(self, request: pb.LoadCheckpointRequest, context: Context) -> pb.LoadCheckpointResponse:
        _, _, weights = self._ready()
        try:
            in_flight = InFlight(request.in_flight or InFlight.WAIT.value)
        except ValueError as error:
            raise InvalidRequestError(f"in_flight is {request.in_flight}: expected WAIT, KEEP or ABORT") from error
        if request.HasField("broadcast"):
            if not self._broadcast_ranks:
                raise PreconditionError("weights come in folders here: set weights_transport to broadcast in [sampler]")
            told = decode_broadcast(request, self._broadcast_ranks, broadcast_backend(self._settings))
            loaded = await weights.receive(*told, in_flight)
        else:
            loaded = await weights.load(Path(request.location), request.policy_version, request.checksum, in_flight)
        return pb.LoadCheckpointResponse(
            policy_version=loaded.policy_version,
            checksum=loaded.checksum,
            canary_max_abs_logprob_diff=loaded.canary_max_abs_logprob_diff,
            pause_s=loaded.pause_s,
        )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        _, _, weights = self._ready()
        return pb.GetStatusResponse(
            policy_version=weights.policy_version,
            checksum=weights.now.checksum,
            model=str(self._settings.model),
            trees_in_flight=len(self._searching),
            trees_held=len(self._held),
            broadcast_ranks=self._broadcast_ranks,
        )

    def _ready(self) -> tuple[Engine, PromptCodec, ServedWeights]:
        if self._attached is None:
            raise UnavailableError("the model is still loading; wait until the health service says SERVING")
        return self._attached
