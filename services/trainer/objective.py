"""What an update minimizes: TreeRL, REINFORCE with a leave-one-out baseline, GRPO and DAPO are settings of one loss.

    loss = mean over the tokens of responses of  c_n · surrogate_n + beta · k3_n

with the clipped surrogate of `loss`, the correction c of `mismatch` and the estimate k3 of KL(policy || reference).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from services.trainer.loss import TokenScores, k3, policy_gradient_loss
from services.trainer.mismatch import corrected_shares
from services.trainer.packing import Microbatch
from services.trainer.settings import MismatchCorrection


class Loss(NamedTuple):
    """A microbatch's part of a minibatch's loss.

    Attributes:
        total: the part (); all parts of the minibatch add up to the mean.
        clipped_n: whether the clipping removed the gradient of each target.
        corrected_n: for each target, the part of its responses in which the correction cut it.
    """

    total: Tensor
    clipped_n: Tensor
    corrected_n: Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss and its settings.

    Attributes:
        clip_low: importance ratios below count as this.
        clip_high: importance ratios above count as this.
        kl_coefficient: beta; 0 needs no reference policy.
        correction: for the mismatch between engine and trainer.
        ratio_cap: of the correction.
        temperature: that responses are sampled at.
    """

    clip_low: float
    clip_high: float
    kl_coefficient: float = 0.0
    correction: MismatchCorrection = "off"
    ratio_cap: float = 2.0
    temperature: float = 1.0

    def silent(self, batch: Microbatch) -> bool:
        """Whether a microbatch adds nothing to the gradient."""
        return batch.silent and not self.kl_coefficient

    def loss(self, new_logprob_n: Tensor, batch: Microbatch, scores: TokenScores) -> Loss:
        """Compute a microbatch's part.

        A token that several responses share has one ratio and one weight, so that its loss, clipped or not, counts as
        many times as it would in rows of single responses.

        Args:
            new_logprob_n: of the targets, under the weights to be updated, at the sampling temperature.
            batch: the targets.
            scores: of the targets before the first update of the training step.
        """
        weight_n, share_n = (torch.from_numpy(array).to(new_logprob_n) for array in (batch.weight_n, batch.share_n))
        corrected_share_n, corrected_n = corrected_shares(
            batch, scores, self.correction, self.ratio_cap, self.temperature
        )
        surrogate_n, clipped_n = policy_gradient_loss(
            new_logprob_n, scores.policy_logprob_n, weight_n, self.clip_low, self.clip_high
        )
        total = (corrected_share_n * surrogate_n).sum()
        if scores.reference_logprob_n is not None:
            total = total + self.kl_coefficient * (share_n * k3(scores.reference_logprob_n, new_logprob_n)).sum()
        return Loss(total, clipped_n, corrected_n)
