"""What is known of a run that goes: its steps and evaluations so far, however often they are told."""

from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2

Record = trainer_pb2.StepMetrics | trainer_pb2.Evaluation


class Progress:
    """Collects a run's records; telling one twice changes nothing."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self._steps: dict[int, trainer_pb2.StepMetrics] = {}
        self._evaluations: dict[int, trainer_pb2.Evaluation] = {}

    def add(self, record: Record) -> bool:
        """Take in a step or an evaluation; returns whether it is new."""
        if isinstance(record, trainer_pb2.StepMetrics):
            new = record.step not in self._steps
            self._steps[record.step] = record
        else:
            new = record.policy_version not in self._evaluations
            self._evaluations[record.policy_version] = record
        return new

    @property
    def steps(self) -> list[trainer_pb2.StepMetrics]:
        """Steps done, in order."""
        return [self._steps[number] for number in sorted(self._steps)]

    @property
    def evaluations(self) -> list[trainer_pb2.Evaluation]:
        """Evaluations done, by policy version."""
        return [self._evaluations[version] for version in sorted(self._evaluations)]

    @property
    def done(self) -> int:
        """Number of the last step done; 0 before the first."""
        return max(self._steps, default=0)

    @property
    def remaining_s(self) -> float | None:
        """Expected time for the steps that are left, from the mean of the last ten; None before the first."""
        recent = [step.step_s for step in self.steps[-10:]]
        return (self.total_steps - self.done) * sum(recent) / len(recent) if recent else None

    @property
    def decoded_tokens(self) -> int:
        """Tokens sampled for training so far."""
        return sum(step.decoded_tokens for step in self._steps.values())
