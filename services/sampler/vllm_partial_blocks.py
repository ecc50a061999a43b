"""Prefix-cache hits that end inside a block: the block is copied, so a fork computes one token again.

vLLM's own cache shares whole blocks only. This is a KV connector, vLLM's way to bring in keys and values from
elsewhere; here they come from another block of the same cache. Its scheduler side finds the block when a request is
admitted, its worker side copies it before the step that needs it. Imported by vLLM, in its engine's processes.

Only blocks of requests that have ended are copied from: what is in them was computed in an earlier step. Not covered:
models with several kinds of cache (sliding windows beside full attention, state spaces), which run as without it.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.kv_cache_utils import (
    BlockHash,
    KVCacheBlockCopy,
    generate_block_hash_extra_keys,
    make_block_hash_with_group_id,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig
from vllm.v1.worker.utils import copy_kv_cache_blocks_inplace

from services.sampler.block_index import BlockIndex

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

_PARTIAL = BlockHash(b"partial block")


@dataclass
class BlockCopies(KVConnectorMetadata):
    """The copies to make before a step: all are read before any is written."""

    pairs: list[KVCacheBlockCopy] = field(default_factory=list)


class PartialBlocks(KVConnectorBase_V1, SupportsHMA):
    """vLLM's `kv_connector`: one in its scheduler, and one in each worker."""

    requires_kv_delivery = False  # nothing leaves this engine

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        """As vLLM makes it."""
        super().__init__(vllm_config, role, kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        covered = (
            len(groups) == 1
            and type(groups[0].kv_cache_spec) is FullAttentionSpec
            and not kv_cache_config.needs_kv_cache_zeroing  # before the copies: it could empty their sources
        )
        self._block_tokens = groups[0].kv_cache_spec.block_size if covered else 0
        self._num_blocks = kv_cache_config.num_blocks
        self._source = self._place = 0
        self._copies = BlockCopies()
        self._caches: list[Tensor] = []

    # In the scheduler.

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """Learn of the cache's blocks, which on a CPU are called so too."""
        self._blocks = gpu_block_pool.blocks
        self._index = BlockIndex(lambda block: self._blocks[block].block_hash)

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int, bool]:
        """How many tokens after those of whole blocks a block holds; they need no waiting for."""
        start = num_computed_tokens
        stop = min(start + self._block_tokens, request.num_tokens - 1)  # the last one has to be computed
        if start >= stop:
            return 0, False
        tokens = tuple(request.all_token_ids[start:stop])
        match = self._index.longest_match(self._parent(request, start), tokens)
        if match is None:
            return 0, False
        self._source, common = match
        self._place = start // self._block_tokens
        return common, False

    def update_state_after_alloc(self, request: "Request", blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        """Plan the copy for the request that was asked about last; it has its blocks now.

        The source may be among them, or be given to another request in this step: its content stays until the step.
        """
        if num_external_tokens:
            (of_request,) = blocks.get_block_ids()
            self._copies.pairs.append(KVCacheBlockCopy(self._source, of_request[self._place]))

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> BlockCopies:
        """Hand over the copies of the step that was planned."""
        copies, self._copies = self._copies, BlockCopies()
        return copies

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Enter a request's blocks into the index, before vLLM frees them."""
        if self._block_tokens:
            self._enter(request, block_ids[0])
        return False, None

    def _enter(self, request: "Request", block_ids: list[int]) -> None:
        computed = min(request.num_computed_tokens, request.num_tokens - 1)
        for place in reversed(range(-(-computed // self._block_tokens))):
            start = place * self._block_tokens
            tokens = tuple(request.all_token_ids[start : min(start + self._block_tokens, computed)])
            block = self._blocks[block_ids[place]]
            if block.block_hash is None:  # not full: vLLM would not tell when it is given to other tokens
                block.set_block_hash(make_block_hash_with_group_id(_PARTIAL, 0))
            if not self._index.add(block.block_id, self._parent(request, start), tokens):
                break  # whoever entered it has entered those before it

    def _parent(self, request: "Request", start: int) -> Hashable:
        """What the content of a block depends on beside its own tokens."""
        extra_keys, _ = generate_block_hash_extra_keys(request, start, start + self._block_tokens, 0)
        before = request.block_hashes[start // self._block_tokens - 1] if start else None
        return before, extra_keys

    # In a worker.

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        """Take each layer's keys and values, whose first dimension is the block; they fail here if it is not."""
        if self._block_tokens:
            self._caches = list(kv_caches.values())
            copy_kv_cache_blocks_inplace(self._caches, self._num_blocks, [KVCacheBlockCopy(0, 0)])

    def start_load_kv(self, forward_context: "ForwardContext", **kwargs: Any) -> None:
        """Make the copies of this step, before it computes anything."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, BlockCopies)
        copy_kv_cache_blocks_inplace(self._caches, self._num_blocks, metadata.pairs)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: all is there."""

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing: what is computed stays where it is."""

    def wait_for_save(self) -> None:
        """Nothing: see `save_kv_layer`."""
