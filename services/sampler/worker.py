"""The stream worker: takes requests from the prompts stream and puts trees on the trees stream."""

import asyncio

from services.common import codec
from services.common.stage import Stage
from services.common.streams import PROMPTS, TREES, Streams
from services.common.tree import in_canonical_order
from services.sampler.engine import Engine
from services.sampler.eptree import search
from services.sampler.prompts import PromptCodec
from services.sampler.settings import SamplerSettings
from services.sampler.weights import ServedWeights
from treerl.common.v1 import tree_pb2


class SamplerWorker:
    """Searches the trees that the run's prompts stream asks for."""

    def __init__(self, engine: Engine, prompts: PromptCodec, weights: ServedWeights, settings: SamplerSettings) -> None:
        """
        Args:
            engine: samples continuations.
            prompts: turns prompts into tokens.
            weights: what the engine serves.
            settings: how many trees at once.
        """
        self._engine = engine
        self._prompts = prompts
        self._weights = weights
        self._settings = settings

    async def run(self, streams: Streams, stopping: asyncio.Event) -> None:
        """Work until asked to stop."""
        stage = Stage(streams, PROMPTS, TREES, self._settings.trees_in_flight, self._settings.max_waiting_trees)
        await stage.run(self.sample, stopping)

    async def sample(self, payload: bytes) -> bytes:
        """Search the tree of a serialized TreeRequest, once the weights are as new as it asks.

        Raises:
            InvalidRequestError: it can never be served.
        """
        request = codec.decode_request(codec.parse(tree_pb2.TreeRequest, payload))
        await self._weights.wait_for(request.min_policy_version)
        tree = await search(self._engine, self._prompts, request)
        return codec.encode_tree(in_canonical_order(tree)).SerializeToString()
