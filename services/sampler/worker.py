"""The stream worker: takes requests from the prompts stream and puts trees on the trees stream."""

import asyncio
from dataclasses import replace

from services.common import codec
from services.common.errors import NotReadyError
from services.common.stage import Stage
from services.common.streams import PROMPTS, TREES, Streams
from services.common.tree import in_canonical_order
from services.sampler.engine import Engine
from services.sampler.eptree import search
from services.sampler.prompts import PromptCodec
from services.sampler.settings import SamplerSettings
from services.sampler.weights import ServedWeights, Weights
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
        self._too_old: Weights | None = None

    async def run(self, streams: Streams, stopping: asyncio.Event) -> None:
        """Work until asked to stop.

        A prompt that asks for newer weights than these is handed back, and until a load no other is taken: whoever
        serves them should have it.
        """
        stage = Stage(streams, PROMPTS, TREES, self._settings.trees_in_flight, self._settings.max_waiting_trees)
        await stage.run(self.sample, stopping, self._takes_prompts)

    def _takes_prompts(self) -> bool:
        return self._weights.trusted and self._weights.now is not self._too_old

    async def sample(self, payload: bytes) -> bytes:
        """Search the tree of a serialized TreeRequest.

        Raises:
            InvalidRequestError: it can never be served.
            NotReadyError: it needs newer weights.
        """
        request = codec.decode_request(codec.parse(tree_pb2.TreeRequest, payload))
        served = self._weights.now
        if served.policy_version < request.min_policy_version:
            self._too_old = served
            raise NotReadyError(
                f"served are weights of version {served.policy_version}, asked for is {request.min_policy_version}"
            )
        tree = await search(self._engine, self._prompts, request)
        named = replace(in_canonical_order(tree), sampler=self._settings.instance)
        return codec.encode_tree(named).SerializeToString()
