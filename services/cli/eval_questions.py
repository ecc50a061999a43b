"""What an evaluation asks: problems of data files, each once greedily and a number of times at random."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.cli.eval_responses import GREEDY, Key
from services.common.errors import ConfigurationError
from services.common.problem import Domain, Problem
from services.common.problem_files import read_problem_file
from services.common.tree import SamplingParameters, SearchParameters, TreeRequest


@dataclass(frozen=True, slots=True)
class Drawing:
    """How responses are drawn.

    Attributes:
        samples: k, responses drawn for each problem beside the greedy one.
        temperature: softmax temperature of those.
        top_p: their nucleus mass.
        max_tokens: longest response.
        seed: decides what is drawn.
    """

    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Question:
    """One response that is wanted."""

    data: str
    problem: Problem
    sample: int

    @property
    def key(self) -> Key:
        """See `Response.key`."""
        return self.data, self.problem.id, self.sample

    def request(self, drawing: Drawing) -> TreeRequest:
        """One chain, of which the sampler needs to know nothing but the prompt."""
        name = "/".join(map(str, self.key))
        digest = hashlib.sha256(f"{drawing.seed} {name}".encode()).digest()
        greedy = self.sample == GREEDY
        sampling = SamplingParameters(
            temperature=0.0 if greedy else drawing.temperature,
            top_p=1.0 if greedy else drawing.top_p,
            max_tokens=drawing.max_tokens,
            seed=None if greedy else int.from_bytes(digest[:4]),
        )
        asked = Problem(self.problem.id, Domain.MATH, self.problem.prompt, answer="")
        return TreeRequest(f"eval-{digest.hex()[:32]}", asked, SearchParameters(chains=1), sampling)


def read_questions(files: Sequence[Path], samples: int, limit: int | None) -> list[Question]:
    """All questions, those of one problem together; a data set is named after its file.

    Args:
        files: JSONL, Parquet or saved Hugging Face data sets.
        samples: drawn for each problem, beside the greedy response.
        limit: problems of each file, from its start; None for all.

    Raises:
        ConfigurationError: a file cannot be used, or two have one name.
    """
    names = [file.stem for file in files]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{names.count(name)} data files are called {name!r}: expected a name for each")
    return [
        Question(name, rated.problem, sample)
        for name, file in zip(names, files, strict=True)
        for rated in read_problem_file(file).problems[:limit]
        for sample in range(GREEDY, samples + 1)
    ]
