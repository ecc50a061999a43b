"""Random objects for property tests."""

from hypothesis import strategies as st

from services.common.tree import Branch, Tree
from services.common.verdict import Outcome
from tests.builders import branch, tree

any_outcome = st.sampled_from([Outcome.CORRECT, Outcome.WRONG, Outcome.INFRA_ERROR])


@st.composite
def trees(draw: st.DrawFn, outcomes: st.SearchStrategy[Outcome] = any_outcome, forked: bool = True) -> Tree:
    """Random trees of up to 10 branches; no two branches share a token id."""
    branches: list[Branch] = []
    for branch_id in range(draw(st.integers(1, 10))):
        forkable = [b for b in branches if len(b.token_ids) > 1] if forked else []
        parent = draw(st.sampled_from([None, *forkable]))
        fork_index = 0 if parent is None else draw(st.integers(parent.fork_index + 1, parent.end - 1))
        parent_id = None if parent is None else parent.id
        branches.append(branch(branch_id, parent_id, fork_index, draw(st.integers(1, 6)), draw(outcomes)))
    return tree(*branches)
