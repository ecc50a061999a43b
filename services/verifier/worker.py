"""The stream worker: takes trees from the trees stream and puts graded ones on the graded stream."""

import asyncio

from services.common import codec
from services.common.errors import UnavailableError
from services.common.stage import Stage
from services.common.streams import GRADED, TREES, Streams
from services.common.verdict import Outcome
from services.verifier.grading import Grader
from services.verifier.settings import VerifierSettings
from treerl.common.v1 import tree_pb2


class VerifierWorker:
    """Grades the trees of a run."""

    def __init__(self, grader: Grader, settings: VerifierSettings) -> None:
        """
        Args:
            grader: judges the leaves.
            settings: how many trees at once.
        """
        self._grader = grader
        self._settings = settings

    async def run(self, streams: Streams, stopping: asyncio.Event) -> None:
        """Work until asked to stop."""
        stage = Stage(streams, TREES, GRADED, self._settings.trees_in_flight, self._settings.max_waiting_trees)
        await stage.run(self.grade, stopping)

    async def grade(self, payload: bytes) -> bytes:
        """Grade a serialized Tree.

        Raises:
            InvalidRequestError: it can never be graded.
            UnavailableError: the grader failed on every leaf; the tree is worth another try.
        """
        tree = await self._grader.grade_tree(codec.decode_tree(codec.parse(tree_pb2.Tree, payload)))
        verdicts = [branch.verdict for branch in tree.branches if branch.verdict is not None]
        if verdicts and all(verdict.outcome is Outcome.INFRA_ERROR for verdict in verdicts):
            raise UnavailableError(f"no leaf of tree {tree.tree_id} could be graded: {verdicts[0].reason}")
        return codec.encode_tree(tree).SerializeToString()
