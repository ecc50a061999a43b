"""Settings of the sampler: table [sampler], environment TREERL_SAMPLER_*."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from services.common.settings import ServiceSettings

PromptFormat = Literal["plain", "chat"]
"""`plain` encodes the prompt as it is; `chat` makes it the user's turn of a chat template."""

PromptOverflow = Literal["refuse", "keep_start", "keep_end"]
"""What becomes of a prompt that leaves no room for `max_tokens`: an error, or one end of its text is kept."""


class SamplerSettings(ServiceSettings):
    """The tree sampler: EPTree search over vLLM, with weights that are replaced while it runs."""

    table: ClassVar[str] = "sampler"

    model: Path = Field(description="Hugging Face folder of the policy at version 0, with its tokenizer")
    weights_dir: Path | None = Field(
        default=None, description="folder where the trainer publishes; a restarted sampler starts from the latest there"
    )
    weights_transport: Literal["folder", "broadcast"] = Field(
        default="folder",
        description="broadcast also receives weights that the trainer sends over the network (as its own "
        "weights_transport says), from wherever a caller of LoadCheckpoint names: keep the port private",
    )
    prompt_format: PromptFormat = Field(
        default="plain", description="plain text, or the user's turn of a chat template"
    )
    system_prompt: str = Field(default="", description="system turn of the chat template; empty for none")
    chat_template: Path | None = Field(
        default=None, description="Jinja file that replaces the tokenizer's chat template; none: the tokenizer's own"
    )
    chat_template_arguments: dict[str, bool | int | float | str] = Field(
        default={}, description="what the chat template is given beside the turns, such as enable_thinking"
    )
    prompt_overflow: PromptOverflow = Field(
        default="refuse",
        description="what becomes of a prompt that leaves no room for max_tokens: refuse it, or keep the start or the "
        "end of its text; the chat template around it always stays whole",
    )
    adapters: dict[str, Path] = Field(
        default={}, description="LoRA adapters in peft's format that requests may name: name = folder"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where vLLM runs; auto takes a GPU if any"
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="type of weights and activations")
    max_model_tokens: int = Field(default=2048, ge=32, description="bound on prompt plus response, in tokens")
    max_sequences: int = Field(default=128, ge=1, description="sequences that the engine decodes at once")
    max_batch_tokens: int = Field(
        default=8192, ge=256, description="tokens that one engine step may process; on a CPU at least max_model_tokens"
    )
    cpu_threads: int = Field(default=0, ge=0, description="OpenMP threads of a CPU engine; 0: every core but one")
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
    max_running_leaves: int = Field(
        default=512, ge=1, le=65536, description="leaves sampled at once for callers of Generate, Fork and SearchTree"
    )
    max_waiting_calls: int = Field(
        default=256, ge=0, le=65536, description="such calls that wait for that; more get RESOURCE_EXHAUSTED"
    )
    max_tree_leaves: int = Field(default=512, ge=1, le=65536, description="leaves of one caller's tree")
    max_tree_tokens: int = Field(
        default=2**20, ge=1, le=2**22, description="leaves times max_tokens of one caller's tree; a message holds 2**22"
    )
    max_held_trees: int = Field(
        default=1024, ge=1, le=65536, description="trees held for clients; the least recently used goes"
    )
    max_held_tokens: int = Field(
        default=2**22, ge=1, description="tokens in held trees, about 100 bytes each; the least recently used goes"
    )
    held_tree_ttl_s: float = Field(default=600.0, gt=0, description="seconds after which an unused held tree goes")
    canary_tolerance_nats: float = Field(
        default=1e-3, gt=0, description="largest |engine - trainer| logprob on a canary; about 0.05 for bfloat16"
    )

    @model_validator(mode="after")
    def _templates_need_chat(self) -> Self:
        chat_only = ("system_prompt", "chat_template", "chat_template_arguments")
        given = [name for name in chat_only if getattr(self, name)]
        if self.prompt_format == "plain" and given:
            raise ValueError(f"{given[0]} is given but prompt_format is plain; set prompt_format to chat")
        return self
