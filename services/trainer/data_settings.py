"""Where a run's problems come from: the tables `[trainer.train_data.NAME]` and `[trainer.heldout_data.NAME]`."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from services.common.problem_columns import Columns

HeldoutOverlap: TypeAlias = Literal["drop", "keep"]
"""Whether a problem is trained on that is also evaluated on."""

Curriculum: TypeAlias = Literal["off", "easy_first"]
"""In which order an epoch goes through the problems of a source."""

SourceName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]

PassRate: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class DataSource(BaseModel):
    """A file of problems."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="JSONL, a file ending in .parquet, or a folder that Hugging Face datasets saved")
    split: str = Field(default="", description="split of a folder with several")
    columns: Columns = Field(default=Columns(), description="columns that are called otherwise than in published files")


class TrainingSource(DataSource):
    """A file of problems that is one part of a mixture."""

    weight: float = Field(default=1.0, gt=0, description="its share of the prompts is this over the sum of all weights")
