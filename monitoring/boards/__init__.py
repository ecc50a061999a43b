"""The dashboards."""

from monitoring.boards.system import SYSTEM
from monitoring.boards.training import TRAINING
from monitoring.boards.trees import TREES
from monitoring.boards.verifier import VERIFIER

BOARDS = (TRAINING, TREES, VERIFIER, SYSTEM)
