"""What counts as the same answer where people disagree; the choices are described in docs/math_grading.md."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MathPolicy:
    """Choices of the comparison.

    Attributes:
        units: `ignored`: 8 cm is 8 and 8 m; `compared`: a gold with a unit wants that unit, as it is written.
        percent: `either`: 50% is 50 and 0.5; `hundredths`: it is 0.5 only.
        vectors: `distinct`: a vector or a column is no tuple; `tuples`: it is the tuple of its components.
    """

    units: Literal["ignored", "compared"] = "ignored"
    percent: Literal["either", "hundredths"] = "either"
    vectors: Literal["distinct", "tuples"] = "distinct"


DEFAULT_POLICY = MathPolicy()
