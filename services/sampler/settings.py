"""Settings of the sampler: table [sampler], environment TREERL_SAMPLER_*."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from services.common.settings import ServiceSettings
from services.sampler.prompts import PromptFormat


class SamplerSettings(ServiceSettings):
    """The tree sampler: EPTree search over vLLM, with weights that are replaced while it runs."""

    table: ClassVar[str] = "sampler"

    model: Path = Field(description="Hugging Face folder of the policy at version 0, with its tokenizer")
    weights_dir: Path | None = Field(
        default=None, description="folder where the trainer publishes; a restarted sampler starts from the latest there"
    )
    prompt_format: PromptFormat = Field(
        default="plain", description="plain text, or the user's turn of a chat template"
    )
    system_prompt: str = Field(default="", description="system turn of the chat template; empty for none")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where vLLM runs; auto takes a GPU if any"
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="type of weights and activations")
    max_model_tokens: int = Field(default=2048, ge=32, description="bound on prompt plus response, in tokens")
    max_sequences: int = Field(default=128, ge=1, description="sequences that the engine decodes at once")
    max_batch_tokens: int = Field(default=8192, ge=256, description="tokens that one engine step may process")
    cpu_threads: int = Field(default=0, ge=0, description="OpenMP threads of the engine on a CPU; 0 takes every core")
    kv_cache_gib: float = Field(default=1.0, gt=0, description="memory of the KV cache on a CPU, in GiB")
    gpu_memory_share: float = Field(default=0.85, gt=0, lt=1, description="share of a GPU's memory that vLLM may take")
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that one copy of the model spans")
    data_parallel: int = Field(
        default=1,
        ge=1,
        description="copies of the model behind this sampler; several samplers of one copy do the same work and can be "
        "restarted one by one",
    )
    trees_in_flight: int = Field(default=24, ge=1, description="trees searched at once from the prompts stream")
    max_waiting_trees: int = Field(
        default=1024, ge=1, description="ungraded trees in the trees stream above which no prompt is taken"
    )
    max_held_trees: int = Field(default=1024, ge=1, description="trees held for clients; the least recently used goes")
    held_tree_ttl_s: float = Field(default=600.0, gt=0, description="seconds after which an unused held tree goes")
    canary_tolerance_nats: float = Field(
        default=1e-3, gt=0, description="largest |engine - trainer| logprob on a canary; about 0.05 for bfloat16"
    )
