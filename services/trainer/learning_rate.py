"""The learning rate of a step: a function of its number and the settings alone, so that resuming needs no state."""

import math

from services.trainer.settings import TrainerSettings


def learning_rate(step: int, settings: TrainerSettings) -> float:
    """The rate of every update of a training step.

    It grows in proportion to the step up to `warmup_steps`, where it is whole, and then stays, or falls to
    `min_learning_rate` at the run's last step: with progress p from 0 to 1, as

        linear   min + (max - min) (1 - p)
        cosine   min + (max - min) (1 + cos(pi p)) / 2      (Loshchilov and Hutter 2017, SGDR, Eq. 5, without restarts)

    Args:
        step: the first is 1.
        settings: of the run.
    """
    highest, lowest = settings.learning_rate, settings.min_learning_rate
    if step < settings.warmup_steps:
        return highest * step / settings.warmup_steps
    if settings.learning_rate_schedule == "constant":
        return highest
    first_whole = max(settings.warmup_steps, 1)
    progress = (step - first_whole) / max(settings.steps - first_whole, 1)
    left = 1 - progress if settings.learning_rate_schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return lowest + (highest - lowest) * left
