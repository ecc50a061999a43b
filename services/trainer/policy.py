"""The policy under training: a Hugging Face causal language model inside a DeepSpeed engine.

The only file that imports deepspeed, and it does so when a policy is made. Everything here blocks.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor

from services.common.errors import CheckpointError, ConfigurationError
from services.trainer.language_model import TargetLogits, load_model, target_logits
from services.trainer.loss import TokenScores, token_logprobs, token_scores
from services.trainer.objective import Objective
from services.trainer.packing import Microbatch, pack
from services.trainer.packing_check import prepare_for_trees
from services.trainer.rows import Packing, sequence_row
from services.trainer.settings import TrainerSettings

_CHECKPOINT_TAG = "deepspeed"
_ZERO_STAGE_FILE = "zero_stage"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

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


class Policy:
    """Scores tokens, takes optimizer steps, and reads and writes its own state.

    Attributes:
        packing: how minibatches must be packed: as set, or flat where the model cannot compute packed trees.
    """

    def __init__(self, settings: TrainerSettings) -> None:
        """Load the model and set up DeepSpeed.

        Raises:
            ConfigurationError: the model folder is missing or cannot be loaded.
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
        self._zero_stage = settings.zero_stage
        self._model = load_model(settings.model, _DTYPES[settings.precision])
        self._deepspeed = _import_deepspeed()
        self._engine, *_ = self._deepspeed.initialize(
            model=TargetLogits(self._model), config=_deepspeed_config(settings), dist_init_required=False
        )
        # Without dropout, whatever the model's config says: the importance ratio before the first update must be 1.
        self._engine.eval()
        self.packing = self._possible_packing(settings.packing)
        self._reference = self._load_reference(settings) if settings.kl_coefficient else None

    @torch.no_grad()
    def score(self, microbatches: Sequence[Microbatch]) -> list[TokenScores]:
        """Score the targets of each microbatch under the present weights."""
        return [self._score(batch) for batch in microbatches]

    def update(
        self, microbatches: Sequence[Microbatch], scores: Sequence[TokenScores], learning_rate: float
    ) -> UpdateResult:
        """Take one optimizer step on a minibatch.

        The gradient is that of the mean over the whole minibatch, however it is cut into microbatches. A minibatch
        without any weight takes no step.

        Args:
            microbatches: the minibatch.
            scores: those of each microbatch before the first update of the training step.
            learning_rate: of this step.
        """
        tokens = sum(int(batch.responses_n.sum()) for batch in microbatches)
        telling = [pair for pair in zip(microbatches, scores, strict=True) if not self._objective.silent(pair[0])]
        if not telling:
            return UpdateResult(0.0, 0.0, 0.0, 0.0)
        loss_sum = clipped_sum = corrected_sum = 0.0
        for number, (batch, old) in enumerate(telling, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(telling))
            new_logprob_n = token_logprobs(self._logits(batch), self._tensor(batch.target_n), self._temperature)
            loss = self._objective.loss(new_logprob_n, batch, old)
            self._engine.backward(loss.total)
            responses_n = self._tensor(batch.responses_n)
            loss_sum += loss.total.item()
            clipped_sum += float((responses_n * loss.clipped_n).sum())
            corrected_sum += float((responses_n * loss.corrected_n).sum())
        return UpdateResult(loss_sum, self._step(learning_rate), clipped_sum / tokens, corrected_sum / tokens)

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
        logprobs: list[tuple[float, ...]] = []
        for token_ids in sequences:
            alone = pack([sequence_row(token_ids[:1], token_ids[1:])], self.packing, len(token_ids), "token")
            logprobs.append(tuple(self.score(alone)[0].raw_logprob_n.tolist()))
        return logprobs

    def write_model(self, folder: Path) -> None:
        """Write model.safetensors and config.json; tied weights are written once."""
        with self._gathered():
            self._model.save_pretrained(folder)

    def save(self, folder: Path) -> None:
        """Write everything that training needs to go on: weights, optimizer and random state."""
        (folder / _ZERO_STAGE_FILE).write_text(str(self._zero_stage))
        state = {"torch_rng": torch.get_rng_state()}
        self._engine.save_checkpoint(str(folder), tag=_CHECKPOINT_TAG, client_state=state, save_latest=False)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            CheckpointError: it is of another model or another ZeRO stage.
        """
        # DeepSpeed reads some checkpoints of another stage without a word, and starts the optimizer anew
        saved_stage = (folder / _ZERO_STAGE_FILE).read_text()
        if saved_stage != str(self._zero_stage):
            raise CheckpointError(f"checkpoint {folder} needs zero_stage {saved_stage}, set is {self._zero_stage}")
        try:
            _, client_state = self._engine.load_checkpoint(str(folder), tag=_CHECKPOINT_TAG)
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]
            raise CheckpointError(f"checkpoint {folder} does not fit this model: {first_line}") from error
        torch.set_rng_state(client_state["torch_rng"])

    def _score(self, batch: Microbatch) -> TokenScores:
        target_n = self._tensor(batch.target_n)
        scores = token_scores(self._logits(batch), target_n, self._temperature)
        if self._reference is None:
            return scores
        reference_nv = target_logits(self._reference, batch, self._engine.device)
        return replace(scores, reference_logprob_n=token_logprobs(reference_nv, target_n, self._temperature))

    def _load_reference(self, settings: TrainerSettings) -> TargetLogits:
        """The model that the run started from, whole and on this device."""
        model = load_model(settings.model, _DTYPES[settings.precision])
        model.set_attn_implementation(self._model.config._attn_implementation)
        return TargetLogits(model).requires_grad_(False).to(self._engine.device)

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

    def _gathered(self) -> AbstractContextManager[Any]:
        """Makes the parameters whole while it is entered; under ZeRO-3 each process holds only its share."""
        gathered: AbstractContextManager[Any] = self._deepspeed.zero.GatheredParameters(
            list(self._model.parameters()), enabled=self._zero_stage == 3
        )
        return gathered


def _import_deepspeed() -> Any:
    """Import deepspeed and join its process group: that of torchrun, or one of this process alone."""
    cuda = torch.cuda.is_available()
    # Named before the import, so that DeepSpeed does not search and warn.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    import deepspeed  # type: ignore[import-untyped]  # takes seconds

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # On a CPU DeepSpeed would spend a minute compiling this one, and only where a compiler is installed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError("the trainer runs as one process; start it without torchrun, or with one process")
    backend = "nccl" if cuda else "gloo"
    if "RANK" not in os.environ and not torch.distributed.is_initialized():
        alone = torch.distributed.HashStore()  # type: ignore[attr-defined]  # a process alone needs no port
        torch.distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed


def _deepspeed_config(settings: TrainerSettings) -> dict[str, Any]:
    return {
        # The two counts are formal: the policy sets the accumulation boundary and the normalisation itself.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.learning_rate,
                "betas": list(settings.adam_betas),
                "weight_decay": settings.weight_decay,
                "torch_adam": True,  # DeepSpeed's own would be compiled at run time
            },
        },
        "zero_optimization": {"stage": settings.zero_stage},
        "bf16": {"enabled": settings.precision == "bf16"},
        "steps_per_print": sys.maxsize,
    }
