"""The view for pipes and continuous integration: one line for each thing that happens."""

import time

from services.cli.process import State, SupervisedProcess
from services.cli.progress import Progress, Record
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2


class PlainLines:
    """Prints lines that begin with the seconds since the start."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self._phase = ""

    def phase(self, text: str) -> None:
        """See `View.phase`."""
        if text != self._phase:
            self._phase = text
            self._print(text)

    def service_changed(self, process: SupervisedProcess) -> None:
        """See `View.service_changed`."""
        if process.state is State.RESTARTING:
            self._print(f"{process.command.name} ended unexpectedly; restarting (log: {process.log})")
        elif process.state is State.READY:
            self._print(f"{process.command.name} ready")

    def news(self, record: Record) -> None:
        """See `View.news`."""
        if isinstance(record, trainer_pb2.StepMetrics):
            self._print(
                f"step {record.step}/{self._progress.total_steps}  pass rate {record.pass_rate:.3f}  "
                f"entropy {record.entropy:.3f}  mismatch KL {record.mismatch_kl:.1e}  {record.leaves} leaves  "
                f"{record.decoded_tokens} tokens  {record.step_s:.1f} s "
                f"(sampling {record.sample_wait_s:.1f}, training {record.train_s:.1f}, "
                f"publishing {record.publish_s:.1f})"
            )
        else:
            self._print(
                f"held-out accuracy {record.accuracy:.3f} of {record.problems} problems "
                f"at policy version {record.policy_version}  {record.wall_s:.1f} s"
            )

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", flush=True)
