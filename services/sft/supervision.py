"""One supervised optimizer step after the other, on a whole model in one process.

Not covered: several processes, ZeRO, and LoRA; a policy of billions of parameters needs a tool made for that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from services.sft.examples import IGNORED_LABEL, Batch

_MAX_GRAD_NORM = 1.0


class Supervision:
    """Teaches a model to give the labelled tokens of batches."""

    def __init__(
        self,
        model: PreTrainedModel,
        learning_rate: float,
        factor: Callable[[int], float],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        autocast: bool = False,
    ) -> None:
        """
        Args:
            model: to teach; stays on its device.
            learning_rate: of AdamW.
            factor: share of it at a step, the first being 0.
            betas: AdamW's decay rates of the two moments.
            weight_decay: AdamW's decoupled weight decay.
            autocast: whether to compute in bfloat16; weights stay as they are.
        """
        self._model = model
        self._autocast = autocast
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)

    def step(self, batches: Sequence[Batch]) -> float:
        """Take one step on batches that are computed one after the other.

        Returns:
            The cross-entropy before the step, in nats: the mean over all labelled tokens.
        """
        labelled = sum(int((batch.labels[:, 1:] != IGNORED_LABEL).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = self._loss_sum(batch) / labelled
            torch.autograd.backward(loss)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_GRAD_NORM)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return total

    def state(self) -> dict[str, Any]:
        """All that the steps so far have changed: weights, optimizer and schedule."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another one, of the same model and settings."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"model": self._model, "optimizer": self._optimizer, "schedule": self._schedule}

    def _loss_sum(self, batch: Batch) -> torch.Tensor:
        device = self._model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._autocast):
            # padding on the right is out of a causal model's sight
            logits = self._model(input_ids=batch.tokens.to(device)).logits[:, :-1]
        labels = batch.labels[:, 1:].to(device)
        return cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )


def warmup_and_decay(steps: int, warmup: float = 0.03) -> Callable[[int], float]:
    """Share of the learning rate at each step: a straight line up over the first ones, and one down to 0 at the end."""
    ramp = max(1, round(warmup * steps))
    return lambda step: min((step + 1) / ramp, max(0, steps - step) / max(1, steps - ramp))
