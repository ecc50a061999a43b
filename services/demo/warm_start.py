"""Supervised warm start: a fresh policy learns the demo's habits, right and wrong, until it is worth reinforcing."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from services.demo.assessment import Assessment, assess, development_exercises
from services.demo.demonstrations import demonstration_batches
from services.demo.exercise import Domain
from services.demo.policy import build_policy
from services.demo.tokenizer import build_tokenizer
from services.sft.supervision import Supervision

REPORT_FILE: Final = "warm_start.json"
DOMAINS: Final[tuple[Domain, ...]] = ("math", "code")


class WarmStartError(RuntimeError):
    """The warm start did not reach a policy that reinforcement learning can improve."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides which policy a warm start produces."""

    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 3e-3
    ramp_steps: int = 50
    decay_steps: int = 600
    step_limit: int = 1000
    steps_between_checks: int = 50
    exercises_per_check: int = 256
    # Sampling must be right often enough to be reinforced, and wrong often enough to have something to learn.
    lowest_pass_rate: float = 0.20
    highest_pass_rate: float = 0.50
    # Reinforcement chooses between habits quickly but mends slips slowly, so slips must be rare when it begins.
    lowest_soundness: float = 0.88

    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the learning rate at a step: a short ramp up, a straight line down, then a low floor."""
        return min(1.0, (step + 1) / self.ramp_steps) * max(0.05, 1 - step / self.decay_steps)

    def accepts(self, assessment: Assessment) -> bool:
        """Whether a policy assessed like this is worth reinforcing."""
        is_learnable = self.lowest_pass_rate <= assessment.pass_rate <= self.highest_pass_rate
        return is_learnable and assessment.soundness >= self.lowest_soundness


DEFAULT_RECIPE: Final = Recipe()


@dataclass(frozen=True)
class Progress:
    """Where the warm start stands after a step; `assessments` is empty between checks."""

    step: int
    step_limit: int
    loss: float
    assessments: Mapping[Domain, Assessment]

    def __str__(self) -> str:
        rates = ", ".join(f"{domain} {assessed.pass_rate:.0%}" for domain, assessed in self.assessments.items())
        return f"step {self.step} of at most {self.step_limit}, right when sampling: {rates}"


@dataclass(frozen=True)
class WarmStart:
    """A finished warm start: a Hugging Face folder, and how good its policy was when training stopped."""

    folder: Path
    steps: int
    assessments: Mapping[Domain, Assessment]

    @classmethod
    def load(cls, folder: Path) -> "WarmStart":
        """Read the report of a warm start that was saved before."""
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        assessments = {domain: Assessment(**report["assessments"][domain]) for domain in DOMAINS}
        return cls(folder, report["steps"], assessments)


def warm_start(folder: Path, on_progress: Callable[[Progress], None], recipe: Recipe = DEFAULT_RECIPE) -> WarmStart:
    """Train a policy on demonstrations and save it; `folder` appears only when it is complete.

    Training stops by what the policy can do, never by the clock, and the policy depends on the recipe alone: on one
    machine with one number of threads it is the same to the bit, elsewhere to the rounding of floating-point sums.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} already exists")
    tokenizer = build_tokenizer()
    policy = build_policy(tokenizer, recipe.seed)
    last = _train(policy, tokenizer, recipe, on_progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        policy.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        assessments = {domain: asdict(assessment) for domain, assessment in last.assessments.items()}
        report = json.dumps({"steps": last.step, "assessments": assessments, "recipe": asdict(recipe)}, indent=2)
        (unfinished / REPORT_FILE).write_text(report + "\n", encoding="utf-8")
        unfinished.chmod(0o755)  # Engines may run as another user; a temporary folder shuts them out.
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return WarmStart(folder, last.step, last.assessments)


def _train(
    policy: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, recipe: Recipe, on_progress: Callable[[Progress], None]
) -> Progress:
    exercises = {domain: development_exercises(domain, recipe.exercises_per_check, recipe.seed) for domain in DOMAINS}
    batches = demonstration_batches(tokenizer, recipe.batch_size, recipe.seed)
    supervision = Supervision(
        policy, recipe.learning_rate, recipe.learning_rate_factor, betas=(0.9, 0.98), weight_decay=0.01
    )
    assessments: dict[Domain, Assessment] = {}
    for step, batch in zip(range(1, recipe.step_limit + 1), batches, strict=False):
        loss = supervision.step([batch])
        is_check = step % recipe.steps_between_checks == 0
        if is_check:
            assessments = {domain: assess(policy, tokenizer, exercises[domain], recipe.seed) for domain in DOMAINS}
        progress = Progress(step, recipe.step_limit, loss, assessments if is_check else {})
        on_progress(progress)
        if is_check and all(map(recipe.accepts, assessments.values())):
            return progress
    raise WarmStartError(f"not worth reinforcing after {recipe.step_limit} steps: {assessments or 'never checked'}")
