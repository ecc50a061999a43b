"""The forks of a recorded tree: which token each replaced, and what it brought. Pure.

A recorded tree holds what it takes: parents, fork indices, tokens, log-probabilities, masks and verdicts. It does not
hold the round in which a branch was made.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Protocol

from services.common.fork_masks import ResponseTokenizer, forkable_positions
from services.common.token_class import TokenClass
from services.common.tree import Branch, ForkSelection, Tree, path
from services.common.verdict import Outcome


class Tokens(ResponseTokenizer, Protocol):
    """What the log needs of the policy's tokenizer."""

    def text(self, token_id: int) -> str:
        """Text of one token, special tokens included."""

    def token_class(self, token_id: int) -> TokenClass:
        """What kind of text a token is."""


@dataclass(frozen=True, slots=True)
class Fork:
    """One fork point.

    Attributes:
        parent_id: the branch that was forked.
        position: in the response, of the token that was replaced.
        depth: forks between the prompt and the parent; 0 where a chain was forked.
        selection: how the token was chosen.
        text: the token that was replaced.
        token_class: what kind of text it is.
        surprisal: -log pi of it at temperature 1, in nats.
        branch_ids: the branches that were sampled instead.
        changed: whether one of them earns another reward than the parent's own way on: right for wrong, or wrong for
            right. None where the verdict of the parent, or of all of them, is unknown.
        new_answers: how many distinct answers they give that the parent does not. All correct answers count as one, as
            they are equal to the gold answer; wrong ones are compared as text.
    """

    parent_id: int
    position: int
    depth: int
    selection: ForkSelection
    text: str
    token_class: TokenClass
    surprisal: float
    branch_ids: tuple[int, ...]
    changed: bool | None
    new_answers: int


def list_forks(tree: Tree, tokens: Tokens) -> list[Fork]:
    """The forks of a tree, by parent and position."""
    made: defaultdict[tuple[int, int], list[Branch]] = defaultdict(list)
    for branch in tree.branches:
        if branch.parent_id is not None:
            made[branch.parent_id, branch.fork_index].append(branch)
    return [_fork(tree, parent_id, position, made[parent_id, position], tokens) for parent_id, position in sorted(made)]


def expected_at_random(tree: Tree, tokens: Tokens) -> dict[TokenClass, float]:
    """Forks of each class to expect, had each chain's tree been forked as often, but uniformly at random.

    Chosen from are the tokens that the search could have forked: those of branches with fewer forks above them than the
    search has rounds. Of later rounds this is an approximation, as a tree does not say which branches they came after.
    """
    expected: defaultdict[TokenClass, float] = defaultdict(float)
    paths = [[step.id for step, _ in path(tree.branches, branch.id)] for branch in tree.branches]
    forks = {(b.parent_id, b.fork_index): paths[b.id][0] for b in tree.branches if b.parent_id is not None}
    for chain_id, count in Counter(forks.values()).items():
        candidates = [
            tokens.token_class(branch.token_ids[position - branch.fork_index])
            for branch in tree.branches
            if paths[branch.id][0] == chain_id and len(paths[branch.id]) <= tree.search.rounds
            for position in forkable_positions(tree.branches, branch.id, tree.search, tokens)
        ]
        for token_class in candidates:
            expected[token_class] += count / len(candidates)
    return expected


def _fork(tree: Tree, parent_id: int, position: int, made: list[Branch], tokens: Tokens) -> Fork:
    parent = tree.branches[parent_id]
    index = position - parent.fork_index
    token_id = parent.token_ids[index]
    answers = {_answer(branch) for branch in made} - {_answer(parent), None}
    return Fork(
        parent_id=parent_id,
        position=position,
        depth=len(path(tree.branches, parent_id)) - 1,
        selection=tree.search.selection,
        text=tokens.text(token_id),
        token_class=tokens.token_class(token_id),
        surprisal=-parent.logprobs[index],
        branch_ids=tuple(branch.id for branch in made),
        changed=_changed(parent, made),
        new_answers=len(answers),
    )


def _changed(parent: Branch, made: list[Branch]) -> bool | None:
    before = _reward(parent)
    after = {_reward(branch) for branch in made} - {None}
    return bool(after - {before}) if after and before is not None else None


def _reward(branch: Branch) -> float | None:
    return None if branch.verdict is None else branch.verdict.reward


def _answer(branch: Branch) -> str | Outcome | None:
    """What a leaf answers, so that equal means the same; None where it answers nothing, or nobody read it."""
    if branch.verdict is None:
        return None
    if branch.verdict.outcome is Outcome.CORRECT:
        return Outcome.CORRECT
    return branch.verdict.answer or None
