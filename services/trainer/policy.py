"""The policy under training: a Hugging Face causal language model inside a DeepSpeed engine, in one or many processes.

Each process computes its share of the microbatches of a call; what is returned counts on the leading process alone.
Everything here blocks.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor

from services.common.errors import CheckpointError
from services.common.tensor_layout import Layout
from services.trainer.deepspeed_engine import make_engine
from services.trainer.language_model import TargetLogits, load_model, recompute_layers, target_logits
from services.trainer.lora import Adapters
from services.trainer.loss import TokenScores, token_logprobs, token_scores
from services.trainer.objective import Objective
from services.trainer.packing import Microbatch, pack
from services.trainer.packing_check import prepare_for_trees
from services.trainer.processes import Processes, deal
from services.trainer.rows import Packing, sequence_row
from services.trainer.settings import TrainerSettings
from services.trainer.whole_weights import Take, layout, whole_weights

_CHECKPOINT_TAG = "deepspeed"
_LAYOUT_FILE = "layout.json"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_UNSCORED = TokenScores(torch.zeros(1), torch.zeros(1), torch.zeros(1))
"""Scores of the one target with which a process idles."""

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What one optimizer update measured.

    Attributes:
        loss: mean over the minibatch, as `loss_mean` has it.
        grad_norm: before clipping.
        clip_fraction: share of the tokens of the minibatch's responses whose gradient was clipped away.
        corrected_fraction: share whose gradient the correction for the mismatch cut.
    """

    loss: float
    grad_norm: float
    clip_fraction: float
    corrected_fraction: float


def _together(method: Callable[Concatenate["Policy", P], T]) -> Callable[Concatenate["Policy", P], T]:
    """When the leading process calls the method, all do."""

    @wraps(method)
    def call(policy: "Policy", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with policy.processes.together((method.__name__, args, kwargs)):
            return method(policy, *args, **kwargs)

    return call


def _drop(name: str, tensor: Tensor) -> None:
    """What becomes of a weight where a process does not lead."""


class Policy:
    """Scores tokens, takes optimizer steps, and reads and writes its own state.

    Attributes:
        packing: how minibatches must be packed: as set, or flat where the model cannot compute packed trees.
        processes: those that hold the policy.
    """

    def __init__(self, settings: TrainerSettings) -> None:
        """Join the other processes, load the model and set up DeepSpeed.

        Raises:
            ConfigurationError: the model folder is missing or cannot be loaded, or a GPU is.
        """
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._temperature = settings.sampling.temperature
        self._objective = Objective(
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            kl_coefficient=settings.kl_coefficient,
            correction=settings.mismatch_correction,
            ratio_cap=settings.mismatch_ratio_cap,
            temperature=settings.sampling.temperature,
        )
        self.processes = Processes()
        self._layout = {
            "zero_stage": settings.zero_stage,
            "processes": self.processes.size,
            "lora": settings.lora and settings.lora.model_dump(mode="json"),
        }
        self._zero_stage = settings.zero_stage
        self._model = load_model(settings.model, _DTYPES[settings.precision])
        self._adapters = (
            Adapters(self._model, settings.lora, settings.seed, settings.model) if settings.lora is not None else None
        )
        if settings.gradient_checkpointing == "layers":
            recompute_layers(self._model)
        self._engine = make_engine(TargetLogits(self._model), settings)
        self.packing = self._possible_packing(settings.packing)
        self._reference = self._reference_logits(settings) if settings.kl_coefficient else None
        # What a process computes that has fewer microbatches than others, without weight, because ZeRO's collectives
        # are part of forward and backward passes.
        (self._idle,) = pack([sequence_row((0,), (0,))], self.packing, 2, "token")

    def follow(self) -> None:
        """As a process that does not lead: make every call that the leader makes, until it closes its policy.

        Raises:
            ProcessLostError: another process is gone.
        """
        while (call := self.processes.next_call()) is not None:
            name, args, kwargs = call
            getattr(self, name)(*args, **kwargs)

    def close(self) -> None:
        """As the leader: let the others go.

        Raises:
            ProcessLostError: one of them is gone.
        """
        self.processes.dismiss()

    @_together
    @torch.no_grad()
    def score(self, microbatches: Sequence[Microbatch]) -> list[TokenScores]:
        """Score the targets of each microbatch under the present weights; the scores are on the CPU."""
        mine, idle = self._share(microbatches)
        scores = [self._score(batch) for batch in (*(microbatches[index] for index in mine), *[self._idle] * idle)]
        parts = self.processes.gather(dict(zip(mine, scores, strict=False)))
        return [parts[index] for index in sorted(parts)]

    @_together
    def update(
        self, microbatches: Sequence[Microbatch], scores: Sequence[TokenScores], learning_rate: float
    ) -> UpdateResult:
        """Take one optimizer step on a minibatch.

        The gradient is that of the mean over the whole minibatch, however it is cut into microbatches, and over however
        many processes. A minibatch without any weight takes no step.

        Args:
            microbatches: the minibatch.
            scores: those of each microbatch before the first update of the training step.
            learning_rate: of this step.
        """
        tokens = sum(int(batch.responses_n.sum()) for batch in microbatches)
        telling = [pair for pair in zip(microbatches, scores, strict=True) if not self._objective.silent(pair[0])]
        if not telling:
            return UpdateResult(0.0, 0.0, 0.0, 0.0)
        mine, idle = self._share([batch for batch, _ in telling])
        work = [*(telling[index] for index in mine), *[(self._idle, _UNSCORED)] * idle]
        loss_sum = clipped_sum = corrected_sum = 0.0
        for number, (batch, old) in enumerate(work, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(work))
            new_logprob_n = token_logprobs(self._logits(batch), self._tensor(batch.target_n), self._temperature)
            loss = self._objective.loss(new_logprob_n, batch, old.to(self._engine.device))
            # DeepSpeed takes the mean over the processes, of which each has only a part of the minibatch's mean
            self._engine.backward(loss.total * self.processes.size)
            responses_n = self._tensor(batch.responses_n)
            loss_sum += loss.total.item()
            clipped_sum += float((responses_n * loss.clipped_n).sum())
            corrected_sum += float((responses_n * loss.corrected_n).sum())
        loss_sum, clipped_sum, corrected_sum = self.processes.sums([loss_sum, clipped_sum, corrected_sum])
        return UpdateResult(loss_sum, self._step(learning_rate), clipped_sum / tokens, corrected_sum / tokens)

    def _share(self, microbatches: Sequence[Microbatch]) -> tuple[list[int], int]:
        sizes = [batch.token_ids_rs.size for batch in microbatches]
        return deal(sizes, self.processes.rank, self.processes.size)

    def _step(self, learning_rate: float) -> float:
        # DeepSpeed's plain path (stage 0, fp32) clips without telling the norm
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None] if self._zero_stage == 0 else []
        norm = torch.nn.utils.get_total_norm(gradients)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        known = self._engine.get_global_grad_norm()
        return float(norm if known is None else known)

    def sequence_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probability of each token but the first at temperature 1, in nats, for each sequence."""
        rows = [sequence_row(token_ids[:1], token_ids[1:]) for token_ids in sequences]
        alone = [batch for row in rows for batch in pack([row], self.packing, 1, "token")]
        return [tuple(scores.raw_logprob_n.tolist()) for scores in self.score(alone)]

    @_together
    def write_model(self, folder: Path) -> None:
        """Write model.safetensors and config.json; tied weights are written once.

        Adapters are merged into the weights, and written by themselves into the folder `adapter`.
        """
        tensors = self._whole_tensors()
        if self.processes.rank > 0:
            return
        if self._adapters is not None:
            self._adapters.write(folder / "adapter", tensors)
            tensors = self._adapters.merged(tensors)
        self._model.save_pretrained(folder, state_dict=tensors)

    def layout(self) -> Layout:
        """The tensors that `send` gives, in its order."""
        return layout(self._model)

    def send(self, take: Take) -> None:
        """As the leader: give each weight away, by name; tied ones once, and adapters merged into the weights.

        Only one is gathered at a time, and lasts until the call returns; with adapters, copies of all are held.

        Args:
            take: must not raise, because the other processes gather what is left all the same.
        """
        with self.processes.together((self.send.__name__, (_drop,), {})):
            for name, tensor in self._plain_weights():
                take(name, tensor)

    @_together
    def save(self, folder: Path) -> None:
        """Write everything that training needs to go on: weights, optimizer and random state.

        Each process writes its own part: all must see the folder.
        """
        if self.processes.rank == 0:
            (folder / _LAYOUT_FILE).write_text(json.dumps(self._layout))
        state = {"torch_rng": torch.get_rng_state()}
        self._engine.save_checkpoint(
            str(folder),
            tag=_CHECKPOINT_TAG,
            client_state=state,
            save_latest=False,
            exclude_frozen_parameters=self._adapters is not None,
        )
        self.processes.wait_for_all()

    @_together
    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            CheckpointError: it is of another model, or of another ZeRO stage, number of processes or kind of adapters.
        """
        # DeepSpeed reads some checkpoints of another stage without a word, and starts the optimizer anew
        saved = json.loads((folder / _LAYOUT_FILE).read_text())
        for setting, value in self._layout.items():
            if saved[setting] != value:
                raise CheckpointError(f"checkpoint {folder} needs {setting} {saved[setting]}, set is {value}")
        try:
            _, client_state = self._engine.load_checkpoint(
                str(folder), tag=_CHECKPOINT_TAG, load_module_strict=self._adapters is None
            )
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]
            raise CheckpointError(f"checkpoint {folder} does not fit this model: {first_line}") from error
        torch.set_rng_state(client_state["torch_rng"])

    def _whole_tensors(self) -> dict[str, Tensor]:
        """Copies of all weights, gathered one after the other; empty where this process does not lead."""
        tensors = {}
        for name, tensor in whole_weights(self._model, self._zero_stage):
            if self.processes.rank == 0:
                tensors[name] = tensor.to("cpu", copy=True)
        return tensors

    def _plain_weights(self) -> Iterable[tuple[str, Tensor]]:
        if self._adapters is None:
            return whole_weights(self._model, self._zero_stage)
        tensors = self._whole_tensors()
        return self._adapters.merged(tensors).items() if self.processes.rank == 0 else ()

    def _score(self, batch: Microbatch) -> TokenScores:
        target_n = self._tensor(batch.target_n)
        scores = token_scores(self._logits(batch), target_n, self._temperature)
        if self._reference is not None:
            reference_logprob_n = token_logprobs(self._reference(batch), target_n, self._temperature)
            scores = replace(scores, reference_logprob_n=reference_logprob_n)
        return scores.to(torch.device("cpu"))

    def _reference_logits(self, settings: TrainerSettings) -> Callable[[Microbatch], Tensor]:
        """What computes the logits of the model that the run started from: this one without its adapters, or a second.

        A second one is whole and on this device.
        """
        adapters = self._adapters
        if adapters is not None:

            def without_adapters(batch: Microbatch) -> Tensor:
                with adapters.off():
                    return self._logits(batch)

            return without_adapters
        model = load_model(settings.model, _DTYPES[settings.precision])
        model.set_attn_implementation(self._model.config._attn_implementation)
        whole = TargetLogits(model).requires_grad_(False).to(self._engine.device)
        return lambda batch: target_logits(whole, batch, self._engine.device)

    def _logits(self, batch: Microbatch) -> Tensor:
        return target_logits(self._engine, batch, self._engine.device)

    @torch.no_grad()
    def _possible_packing(self, wanted: Packing) -> Packing:
        if wanted == "flat":
            return "flat"
        obstacle = prepare_for_trees(self._model, self._logits)
        if obstacle is not None:
            log.warning("this model trains on single responses, not on packed trees", because=obstacle)
        return "tree" if obstacle is None else "flat"

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._engine.device)
