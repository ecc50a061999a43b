"""vLLM's NCCL engine for weights that are broadcast, where there is no GPU: the same calls, but over gloo.

Runs inside vLLM's worker processes. Only who the group is and how a tensor is received are its own.
"""

from typing import Any

import torch
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferUpdateInfo

from services.common.broadcast_group import GlooGroup


class GlooTransferEngine(NCCLWeightTransferEngine):
    """Receives tensors one by one."""

    model_update_group: Any

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Take this worker's place behind those of the data parallel replicas before it."""
        config = self.parallel_config
        rank = init_info.rank_offset + config.data_parallel_index * config.world_size + config.rank
        host, port = init_info.master_address, init_info.master_port
        assert host is not None
        assert port is not None
        self.model_update_group = GlooGroup.receiving(host, port, rank, init_info.world_size)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Without vLLM's wait for an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receive each tensor and load it."""
        model: Any = self.model
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self.model_update_group.broadcast(tensor)
            model.load_weights([(name, tensor)])
