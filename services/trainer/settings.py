"""What a training run is configured by: the `[trainer]` table."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.common.problem_files import BadRows
from services.common.settings import ServiceSettings
from services.common.tree import (
    MAX_ANSWER_MARKERS,
    ForkSelection,
    Logprobs,
    SamplingParameters,
    SearchParameters,
    SpecialTokens,
)
from services.trainer.advantages import CHAIN_ADVANTAGES, AdvantageName, Normalization
from services.trainer.data_settings import Curriculum, DataSource, HeldoutOverlap, PassRate, SourceName, TrainingSource
from services.trainer.packing import LossMean
from services.trainer.rows import Packing

LoggerName: TypeAlias = Literal["tensorboard", "wandb"]
"""Where a run's record is shown besides its own files and Prometheus."""

MismatchCorrection: TypeAlias = Literal["off", "token", "sequence"]
"""Whether losses are corrected for the mismatch of engine and trainer, and if, by tokens or by responses."""


class SearchSettings(BaseModel):
    """EPTree's (M, N, L, T) (TreeRL, section 3.1), and where not to fork; the paper's 30 leaves are (6, 2, 1, 2)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chains: int = Field(default=6, ge=1, description="M: independent chains a prompt")
    forks: int = Field(default=2, ge=0, description="N: tokens forked in each chain's tree a round; 0 for chains only")
    rounds: int = Field(default=1, ge=0, description="L: rounds of forking")
    branches: int = Field(default=2, ge=0, description="T: branches sampled from each forked token")
    selection: Literal["surprisal", "entropy", "random"] = Field(
        default="surprisal", description="how the tokens to fork at are chosen"
    )
    special_tokens: Literal["masked", "forkable"] = Field(
        default="masked", description="whether special tokens of the tokenizer, such as end tokens, are forked"
    )
    answer_markers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        max_length=MAX_ANSWER_MARKERS,
        description="texts such as \\boxed{ that announce the answer: no token is forked once one is complete",
    )

    def parameters(self) -> SearchParameters:
        """The same as the domain object."""
        return SearchParameters(
            chains=self.chains,
            forks=self.forks,
            rounds=self.rounds,
            branches=self.branches,
            selection=ForkSelection[self.selection.upper()],
            special_tokens=SpecialTokens[self.special_tokens.upper()],
            answer_markers=self.answer_markers,
        )


class SamplingSettings(BaseModel):
    """How training responses are drawn from the policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=1.2, gt=0, le=2, description="softmax temperature")
    top_p: float = Field(default=0.95, gt=0, le=1, description="nucleus mass")
    max_tokens: int = Field(default=1024, ge=1, description="longest response, in tokens")
    min_tokens: int = Field(default=0, ge=0, description="tokens before which nothing but max_tokens ends a response")
    stop: tuple[str, ...] = Field(default=(), description="strings that end a response and stay part of it")
    stop_token_ids: tuple[int, ...] = Field(
        default=(), description="tokens that end a response and stay part of it, beside the model's end tokens"
    )
    logprobs: Literal["raw", "raw_and_sampling"] = Field(
        default="raw",
        description="raw: log-probabilities of the policy at temperature 1; raw_and_sampling: also those of the "
        "distribution that was drawn from, after temperature and top_p",
    )

    @model_validator(mode="after")
    def _least_fits_most(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}: expected at most max_tokens, {self.max_tokens}")
        return self

    def parameters(self, seed: int) -> SamplingParameters:
        """As the domain object, for training."""
        return SamplingParameters(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=seed,
            stop=self.stop,
            stop_token_ids=self.stop_token_ids,
            min_tokens=self.min_tokens,
            logprobs=Logprobs[self.logprobs.upper()],
        )

    def greedy_parameters(self) -> SamplingParameters:
        """As the domain object, for evaluation: the most probable token every time."""
        return replace(self.parameters(seed=0), temperature=0.0, top_p=1.0, seed=None, logprobs=Logprobs.RAW)


class LoraSettings(BaseModel):
    """Adapters that are trained in place of the model's own weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1, description="inner size of each adapter")
    alpha: int = Field(default=32, ge=1, description="what an adapter adds counts alpha / rank")
    target_modules: tuple[str, ...] = Field(
        default=(), description="names of the linear layers that get adapters, such as q_proj; none: all but the head"
    )


class TrainerSettings(ServiceSettings):
    """Train a policy by tree search: collect trees, weigh their segments, update the policy, publish the weights."""

    table: ClassVar[str] = "trainer"

    model: Path = Field(description="Hugging Face folder of the policy to start from")
    output_dir: Path = Field(description="folder of the run: logs, checkpoints and published weights")
    resume: Literal["auto", "never"] = Field(
        default="auto",
        description="auto goes on from the newest checkpoint; never starts afresh and overwrites the run",
    )

    train_data: Path | dict[SourceName, TrainingSource] = Field(
        description="problems to train on: a file, or a table of sources by name"
    )
    heldout_data: Path | dict[SourceName, DataSource] | None = Field(
        default=None, description="problems to evaluate on, given likewise; none: never"
    )
    heldout_problems: int = Field(
        default=500, ge=1, description="evaluate on at most this many of each source, from its start"
    )
    heldout_samples: int = Field(
        default=0,
        ge=0,
        description="k: responses drawn for each held-out problem as in training, for avg@k and pass@k, beside the "
        "greedy one",
    )
    heldout_overlap: HeldoutOverlap = Field(
        default="drop",
        description="what becomes of problems to train on whose prompt is held out, up to case and white space",
    )
    bad_rows: BadRows = Field(
        default="refuse", description="what a row that is no problem does: ends the run, or nothing"
    )
    max_prompt_tokens: int = Field(
        default=0, ge=0, description="longer prompts, without their chat template, are not trained on; 0 for any length"
    )
    pass_rate_range: tuple[PassRate, PassRate] = Field(
        default=(0.0, 1.0), description="problems whose known pass rate is outside of this are not trained on"
    )

    curriculum: Curriculum = Field(
        default="off",
        description="order of an epoch: at random, or by falling pass rate, those of unknown rate last",
    )

    samplers: tuple[str, ...] = Field(
        min_length=1,
        description="gRPC addresses (host:port) of every sampler of the run; dns:name:port is every address that the "
        "name has when weights are published",
    )
    search: SearchSettings = Field(default=SearchSettings(), description="shape of the trees")
    sampling: SamplingSettings = Field(default=SamplingSettings(), description="how tokens are drawn")
    sample_timeout_s: float = Field(
        default=600.0, gt=0, description="longest wait without a single graded tree, in seconds, before the run fails"
    )
    reload_patience_s: float = Field(
        default=300.0,
        gt=0,
        description="longest wait for a sampler to load new weights, its restart included, in seconds",
    )
    reload_in_flight: Literal["wait", "keep", "abort"] = Field(
        default="wait",
        description="requests in flight when a sampler loads new weights end before it, go on under the new weights, "
        "or are sampled again",
    )

    weights_transport: Literal["folder", "broadcast"] = Field(
        default="folder",
        description="how weights reach samplers: in a folder that they read, or sent to all at once over the network "
        "(NCCL where there are GPUs, else gloo); samplers then need the same setting",
    )
    broadcast_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="address of the trainer's machine at which samplers reach it, for weights_transport broadcast",
    )
    broadcast_port: int = Field(
        default=0, ge=0, le=65535, description="port there at which they meet; 0 takes a free one each time"
    )

    max_policy_lag: int = Field(
        default=0,
        ge=0,
        le=16,
        description="largest age of the weights that sampled a token, in steps, when it is trained; 0 samples a step's "
        "trees once the step before is done, k samples those of the next k steps meanwhile",
    )
    uniform_trees: Literal["train", "replace"] = Field(
        default="train",
        description="what becomes of trees whose leaves all got one reward, which teach nothing: train on them, or "
        "replace them by trees of other prompts (dynamic sampling, DAPO)",
    )
    max_refills: int = Field(
        default=4, ge=1, description="times that a step asks for replacements before it trains on what it has"
    )

    steps: int = Field(ge=1, description="training steps in all")
    seed: int = Field(default=0, ge=0, description="decides the order of the data, the sampling and the minibatches")
    prompts_per_step: int = Field(default=16, ge=1, description="prompts, and so trees, of one step")
    minibatches: int = Field(
        default=1, ge=1, description="optimizer updates a step, each on an equal share of the prompts"
    )
    advantage: AdvantageName = Field(default="treerl", description="how leaf rewards become weights of segments")
    advantage_normalization: Normalization = Field(
        default="none",
        description="batch_std divides weights by their standard deviation over the tokens of the step's responses",
    )
    loss_mean: LossMean = Field(
        default="token",
        description="the loss is a mean over a minibatch's tokens, or over its responses and the tokens within each",
    )
    clip_low: float = Field(default=0.8, gt=0, le=1, description="importance ratios below count as this")
    clip_high: float = Field(
        default=1.26, ge=1, description="importance ratios above count as this (clip-higher, DAPO)"
    )
    kl_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="weight of KL(policy || model that the run started from); 0 keeps no second model",
    )
    mismatch_correction: MismatchCorrection = Field(
        default="off",
        description="importance sampling from engine to trainer: token caps each token's ratio, sequence leaves out "
        "responses whose ratio is beyond the cap or its inverse",
    )
    mismatch_ratio_cap: float = Field(default=2.0, gt=1, description="largest ratio that the correction lets stand")
    learning_rate: float = Field(default=1.5e-6, gt=0, description="AdamW's learning rate, the highest of the schedule")
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="what becomes of the learning rate after the warm-up, over the run's steps"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps over which the learning rate grows from 0")
    min_learning_rate: float = Field(
        default=0.0, ge=0, description="learning rate of the last step under linear and cosine"
    )
    adam_betas: tuple[float, float] = Field(default=(0.9, 0.95), description="AdamW's decay rates of the two moments")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay")
    lora: LoraSettings | None = Field(
        default=None, description="train adapters (LoRA) instead of the model's own weights; none: the weights"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are scaled down to this norm")

    packing: Packing = Field(
        default="tree",
        description="tree computes a token that responses share once; flat computes every response by itself",
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of weights and activations")
    processes: int = Field(
        default=1,
        ge=1,
        description="processes of the trainer on this machine, one a GPU, started by torchrun; not looked at by a "
        "trainer that you start by torchrun yourself",
    )
    zero_stage: int = Field(default=0, ge=0, le=3, description="what DeepSpeed shards over the processes (ZeRO)")
    offload: Literal["none", "optimizer", "optimizer_and_weights"] = Field(
        default="none",
        description="what is kept in the CPU's memory, where AdamW then runs: the optimizer's state needs zero_stage 1 "
        "or more, weights need 3",
    )
    gradient_checkpointing: Literal["off", "layers"] = Field(
        default="off", description="layers computes each layer once more in the backward pass, to keep less memory"
    )
    microbatch_tokens: int = Field(
        default=8192,
        ge=1,
        description="tokens of one forward pass, padding included; a longer response or chain gets a pass of its own",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of torch; 0 leaves the choice to torch")

    checkpoint_every: int = Field(
        default=10, ge=1, description="steps between checkpoints; the last step gets one always"
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="newest checkpoints that are kept; with 1 there is none to go back to"
    )
    evaluate_every: int = Field(
        default=0,
        ge=0,
        description="steps between evaluations; 0 evaluates only before the first and after the last step",
    )

    loggers: tuple[LoggerName, ...] = Field(
        default=(),
        description="where the record is shown besides the run's folder; each is an extra of the package",
    )

    mismatch_multiple: float = Field(
        default=5.0, gt=1, description="stop when mean |engine - trainer| logprob exceeds this multiple of its baseline"
    )
    canary_tolerance: float = Field(
        default=0.01, gt=0, description="largest canary difference after a reload, in nats; bf16 needs about 0.3"
    )

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> Self:
        needed = {"none": 0, "optimizer": 1, "optimizer_and_weights": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(f"offload {self.offload!r} needs zero_stage {needed} or more, set is {self.zero_stage}")
        return self

    @model_validator(mode="after")
    def _schedule_fits_run(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}: expected at most steps, {self.steps}")
        if self.min_learning_rate > self.learning_rate:
            highest = f"learning_rate, {self.learning_rate:g}"
            raise ValueError(f"min_learning_rate is {self.min_learning_rate:g}: expected at most {highest}")
        return self

    @model_validator(mode="after")
    def _advantage_fits_search(self) -> Self:
        if self.advantage in CHAIN_ADVANTAGES and self.search.forks != 0:
            raise ValueError(
                f"advantage {self.advantage!r} compares independent chains but search.forks is {self.search.forks}; "
                "set search.forks to 0 or choose another advantage"
            )
        return self

    @model_validator(mode="after")
    def _lag_is_corrected(self) -> Self:
        if self.max_policy_lag and self.mismatch_correction == "off":
            raise ValueError(
                f"max_policy_lag is {self.max_policy_lag} but mismatch_correction is off: tokens of older weights "
                "would be trained as if the present ones had sampled them; set mismatch_correction to token or sequence"
            )
        return self
