"""Which problems of its files a run trains and evaluates on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import structlog

from services.common.errors import ConfigurationError
from services.common.problem import Problem
from services.common.problem_columns import RatedProblem
from services.common.problem_files import read_problem_file
from services.trainer.data_settings import DataSource, TrainingSource
from services.trainer.dataset import Dataset, Source
from services.trainer.settings import TrainerSettings

SourceT = TypeVar("SourceT", bound=DataSource)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a problem must satisfy to be trained on.

    Attributes:
        heldout: normalized prompts that must not be.
        pass_rates: least and greatest known pass rate.
        max_prompt_tokens: longest prompt; 0 for any length.
        count_tokens: tokens of a prompt; not called where any length will do.
    """

    heldout: AbstractSet[str]
    pass_rates: tuple[float, float]
    max_prompt_tokens: int
    count_tokens: Callable[[str], int]

    def objection(self, rated: RatedProblem) -> str | None:
        """Why a problem is not trained on; None if it is."""
        least, greatest = self.pass_rates
        if normalized(rated.problem.prompt) in self.heldout:
            return "held out"
        if rated.pass_rate is not None and not least <= rated.pass_rate <= greatest:
            return "pass rate out of range"
        if self.max_prompt_tokens and self.count_tokens(rated.problem.prompt) > self.max_prompt_tokens:
            return "prompt too long"
        return None


def select(problems: Sequence[RatedProblem], criteria: Criteria) -> tuple[tuple[RatedProblem, ...], Counter[str]]:
    """The problems to train on, in order, and how many were left out, by reason."""
    kept: list[RatedProblem] = []
    left_out: Counter[str] = Counter()
    for rated in problems:
        objection = criteria.objection(rated)
        if objection is None:
            kept.append(rated)
        else:
            left_out[objection] += 1
    return tuple(kept), left_out


def easy_first(problems: Sequence[RatedProblem]) -> tuple[tuple[RatedProblem, ...], tuple[int, ...]]:
    """Problems by falling pass rate, those of unknown rate last, and how many there are of each rate."""

    def difficulty(rated: RatedProblem) -> float:
        return 2.0 if rated.pass_rate is None else 1 - rated.pass_rate

    ordered = sorted(problems, key=difficulty)
    return tuple(ordered), tuple(len(list(alike)) for _, alike in groupby(ordered, key=difficulty))


def normalized(prompt: str) -> str:
    """What two prompts have in common that differ in case and white space alone."""
    return " ".join(prompt.split()).casefold()


def load_problems(settings: TrainerSettings) -> tuple[Dataset, tuple[Problem, ...]]:
    """Read what a run trains on, and what it evaluates on.

    Raises:
        ConfigurationError: a file or the tokenizer cannot be used, or nothing is left to train on.
    """
    heldout = [_read(source, settings) for source in _named(settings.heldout_data).values()]
    forbidden = heldout if settings.heldout_overlap == "drop" else []
    criteria = Criteria(
        heldout={normalized(rated.problem.prompt) for of_source in forbidden for rated in of_source},
        pass_rates=settings.pass_rate_range,
        max_prompt_tokens=settings.max_prompt_tokens,
        count_tokens=_token_counter(settings.model) if settings.max_prompt_tokens else len,
    )
    sources = []
    for name, source in _named(settings.train_data).items():
        problems, left_out = select(_read(source, settings), criteria)
        log.info("problems to train on", file=str(source.path), problems=len(problems), **_logged(left_out))
        if not problems:
            raise ConfigurationError(f"of data file {source.path} no problem is left to train on: {_told(left_out)}")
        stages: tuple[int, ...] = ()
        if settings.curriculum == "easy_first":
            if all(rated.pass_rate is None for rated in problems):
                raise ConfigurationError(
                    f"curriculum easy_first: no row of {source.path} has a pass_rate; map a column"
                )
            problems, stages = easy_first(problems)
        sources.append(Source(name, tuple(rated.problem for rated in problems), source.weight, stages))
    evaluated = (rated.problem for of_source in heldout for rated in of_source[: settings.heldout_problems])
    return Dataset(tuple(sources), settings.seed), tuple(evaluated)


def _named(data: Path | Mapping[str, SourceT] | None) -> Mapping[str, SourceT | TrainingSource]:
    if data is None:
        return {}
    return {"": TrainingSource(path=data)} if isinstance(data, Path) else data


def _read(source: DataSource, settings: TrainerSettings) -> tuple[RatedProblem, ...]:
    read = read_problem_file(source.path, source.columns, source.split, settings.bad_rows)
    if read.skipped:
        log.warning("rows left out", file=str(source.path), rows=read.skipped)
    return read.problems


def _token_counter(model: Path) -> Callable[[str], int]:
    from transformers import AutoTokenizer  # late: it takes seconds to load

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"max_prompt_tokens needs a tokenizer, and {model} has none: {error}") from error
    return lambda prompt: len(tokenizer.encode(prompt))


def _logged(left_out: Counter[str]) -> dict[str, int]:
    return {reason.replace(" ", "_"): count for reason, count in left_out.items()}


def _told(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
