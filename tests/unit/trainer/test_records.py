"""The run's records have the fields of the protobuf messages, so that a log line and an RPC say the same."""

from dataclasses import fields
from typing import Any

import pytest

from services.trainer import records
from treerl.trainer.v1 import trainer_service_pb2 as pb


@pytest.mark.parametrize("name", ["StepMetrics", "Evaluation", "CategoryAccuracy"])
def test_fields_equal_the_messages(name: str) -> None:
    message: Any = getattr(pb, name)
    assert [f.name for f in fields(getattr(records, name))] == list(message.DESCRIPTOR.fields_by_name)
