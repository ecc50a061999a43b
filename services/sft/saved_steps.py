"""From where a killed fine-tuning goes on: checkpoints beside its output, of one recipe alone.

    {output}.checkpoints/step-00000200/   state.pt      weights, optimizer, schedule, and the losses so far
                                          recipe.json   what decides the model

Data cursor and random state need no saving: the order is a function of seed and step, and there is no dropout.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from services.common.checkpoint import Checkpoints
from services.common.errors import PreconditionError
from services.sft.supervision import Supervision

_STATE_FILE = "state.pt"
_RECIPE_FILE = "recipe.json"

Resume: TypeAlias = Literal["auto", "never"]
"""Whether to go on from the newest checkpoint, or to start afresh and remove them all."""


class SavedSteps:
    """The checkpoints of a fine-tuning."""

    def __init__(self, output: Path, recipe: Mapping[str, Any], resume: Resume) -> None:
        """
        Args:
            output: folder of the finished model.
            recipe: what decides the model, as JSON has it.
            resume: whether to go on from what is there.

        Raises:
            PreconditionError: there are checkpoints of another recipe.
            CheckpointError: there are checkpoints but none is intact.
        """
        root = output.with_name(f"{output.name}.checkpoints")
        self._checkpoints = Checkpoints(root)
        self._recipe = recipe
        if resume == "never":
            self._checkpoints.discard()
        self._newest = self._checkpoints.latest()
        if self._newest is not None:
            begun = json.loads((self._newest.folder / _RECIPE_FILE).read_text(encoding="utf-8"))
            differing = [key for key, value in recipe.items() if begun[key] != value]
            if differing:
                raise PreconditionError(
                    f"{root} holds a fine-tuning with another {differing[0]} (its {_RECIPE_FILE} says which): choose "
                    "another output folder, or set resume to never to start afresh"
                )

    def restore(self, supervision: Supervision) -> list[float]:
        """Take up the newest checkpoint, if there is one.

        Returns:
            The losses of the steps that are done.
        """
        if self._newest is None:
            return []
        state = torch.load(self._newest.folder / _STATE_FILE, map_location="cpu", mmap=True, weights_only=True)
        supervision.restore(state)
        losses: list[float] = state["losses"]
        return losses

    def save(self, supervision: Supervision, losses: list[float]) -> None:
        """Write a checkpoint after so many steps as there are losses; it is durable on return."""

        def write(folder: Path) -> None:
            torch.save({**supervision.state(), "losses": losses}, folder / _STATE_FILE)
            (folder / _RECIPE_FILE).write_text(json.dumps(self._recipe, indent=2) + "\n", encoding="utf-8")

        self._checkpoints.save(len(losses), {}, write)

    def discard(self) -> None:
        """Remove all checkpoints."""
        self._checkpoints.discard()
