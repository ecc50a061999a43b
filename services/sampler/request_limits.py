"""What a call may ask for: requests come from anywhere, and one must not take the sampler from the others.

Not covered here: what no request may hold whoever sends it, which the codec checks, and the length of the prompt in
tokens, which the engine checks.
"""

from services.common.errors import InvalidRequestError, PreconditionError
from services.common.tree import SamplingParameters, TreeRequest
from services.sampler.growing_tree import GrowingTree
from services.sampler.settings import SamplerSettings

MAX_REQUEST_BYTES = 1024 * 1024
"""Largest request received; the largest is a prompt with the tests of its problem."""

MAX_PROMPT_CHARACTERS_PER_TOKEN = 32
"""A prompt with more characters than this for each token that the model holds is not even encoded: encoding takes time
in which nobody else is answered."""

MAX_ROUNDS = 32
"""Most rounds of a search; each looks at all tokens of the tree, while nobody else is answered."""


class RequestLimits:
    """Checks requests against the sampler's settings."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._max_prompt_characters = MAX_PROMPT_CHARACTERS_PER_TOKEN * settings.max_model_tokens
        self._max_leaves = settings.max_tree_leaves
        self._max_tokens = settings.max_tree_tokens

    def check(self, request: TreeRequest) -> None:
        """Check a request for a tree.

        Raises:
            InvalidRequestError: the prompt is too long, or the tree has too many rounds, leaves or tokens.
        """
        characters = len(request.problem.prompt)
        if characters > self._max_prompt_characters:
            raise InvalidRequestError(
                f"the prompt has {characters} characters: expected at most {self._max_prompt_characters}, "
                f"{MAX_PROMPT_CHARACTERS_PER_TOKEN} for each token that the model holds"
            )
        search = request.search
        if search.forks and not search.branches:
            raise InvalidRequestError(f"search has {search.forks} forks of 0 branches: expected at least 1 branch")
        if search.rounds > MAX_ROUNDS:
            raise InvalidRequestError(f"search has {search.rounds} rounds: expected at most {MAX_ROUNDS}")
        self._check_size(search.max_leaves, request.sampling)

    def check_growth(self, growing: GrowingTree, count: int) -> None:
        """Check that a tree may get so many more leaves.

        Raises:
            InvalidRequestError: no tree may ever get so many.
            PreconditionError: this one is too large already.
        """
        self._check_size(count, growing.sampling)
        try:
            self._check_size(growing.leaves + count, growing.sampling)
        except InvalidRequestError as error:
            raise PreconditionError(
                f"the tree has or awaits {growing.leaves} leaves and cannot get {count} more: {error}"
            ) from error

    def _check_size(self, leaves: int, sampling: SamplingParameters) -> None:
        if leaves > self._max_leaves:
            raise InvalidRequestError(f"a tree of {leaves} leaves: expected at most {self._max_leaves}")
        if leaves * sampling.max_tokens > self._max_tokens:
            raise InvalidRequestError(
                f"a tree of {leaves} leaves with max_tokens {sampling.max_tokens}: expected a product of at most "
                f"{self._max_tokens}; ask for fewer leaves or lower max_tokens"
            )
