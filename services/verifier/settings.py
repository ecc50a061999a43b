"""Settings of the verifier: table [verifier], environment TREERL_VERIFIER_*."""

from typing import ClassVar, Literal

from pydantic import Field

from services.common.settings import ServiceSettings


class VerifierSettings(ServiceSettings):
    """The grader of math answers and programs."""

    table: ClassVar[str] = "verifier"

    math_workers: int = Field(default=2, ge=1, le=256, description="processes that compare math answers")
    math_timeout_s: float = Field(default=2.5, ge=0.1, le=60, description="wall-clock limit of one math grading")
    math_memory_bytes: int = Field(
        default=512 << 20, ge=256 << 20, description="address space of a math worker, its libraries included"
    )
    math_units: Literal["ignored", "compared"] = Field(
        default="ignored", description="units after a number; compared: a gold with a unit wants the same unit"
    )
    math_percent: Literal["either", "hundredths"] = Field(
        default="either", description="50% equals 50 and 0.5, or 0.5 only"
    )
    math_vectors: Literal["distinct", "tuples"] = Field(
        default="distinct", description="whether a row, a column or <a, b> may stand for the tuple (a, b)"
    )
    code_workers: int = Field(
        default=2, ge=1, le=256, description="tests of programs that run at full priority; about one a core"
    )
    code_tests_per_worker: int = Field(
        default=4,
        ge=1,
        le=32,
        description="tests there may be for each worker, those included that have run long and yield to newer ones; "
        "each may use code_memory_bytes",
    )
    code_timeout_s: float = Field(
        default=6.0, ge=0.1, le=60, description="time limit of one test of a program, waiting for a core not counted"
    )
    code_memory_bytes: int = Field(
        default=512 << 20, ge=64 << 20, description="address space of one test of a program, its interpreter included"
    )
    code_output_bytes: int = Field(default=1 << 20, ge=1024, description="output that one test of a program may write")
    code_cases: Literal["until_failure", "all"] = Field(
        default="until_failure", description="tests of a program that are run: up to the first failure, or all"
    )
    min_isolation: Literal["rlimits", "landlock", "seccomp", "namespaces"] = Field(
        default="seccomp", description="weakest sandbox that the verifier starts with; it takes the strongest there is"
    )
    trees_in_flight: int = Field(default=8, ge=1, description="trees graded at once from the trees stream")
    max_waiting_trees: int = Field(
        default=1024, ge=1, description="graded trees that wait for the trainer, above which no tree is taken"
    )
    graders: tuple[str, ...] = Field(
        default=(),
        description="graders of your own that requests may name: entry points of `treerl.graders`, or module:function",
    )
    cache_bytes: int = Field(
        default=64 << 20, ge=0, description="memory for judgements that are kept for equal answers; 0 keeps none"
    )
    max_running_gradings: int = Field(
        default=64, ge=1, description="responses of callers graded at once; clients take turns for the rest"
    )
    max_waiting_calls: int = Field(default=256, ge=0, description="calls that wait for their turn; more are refused")
