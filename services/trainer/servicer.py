"""TrainerService over gRPC: decode, call, encode."""

from collections.abc import AsyncIterator
from dataclasses import asdict

from services.common.errors import PreconditionError
from services.common.grpc_server import Context
from services.trainer.records import Record, StepMetrics
from services.trainer.run_control import RunControl
from services.trainer.run_log import RunLog
from services.trainer.settings import TrainerSettings
from treerl.trainer.v1 import trainer_service_pb2 as pb
from treerl.trainer.v1.trainer_service_pb2_grpc import TrainerServiceServicer

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name


class TrainerServicer(TrainerServiceServicer):
    """Watches and steers one run."""

    def __init__(self, settings: TrainerSettings, control: RunControl, run_log: RunLog) -> None:
        self._settings = settings
        self._control = control
        self._log = run_log

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(
            run=self._settings.run,
            state=pb.RunState.ValueType(self._control.state.value),
            step=self._control.step,
            total_steps=self._settings.steps,
            policy_version=self._control.policy_version,
            checkpoint_step=self._control.checkpoint_step,
            failure=self._control.failure,
        )

    async def Pause(self, request: pb.PauseRequest, context: Context) -> pb.PauseResponse:
        return pb.PauseResponse(step=await self._control.pause())

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        await self._control.resume()
        return pb.ResumeResponse()

    async def SaveCheckpoint(self, request: pb.SaveCheckpointRequest, context: Context) -> pb.SaveCheckpointResponse:
        checkpoint = await self._control.save_checkpoint()
        return pb.SaveCheckpointResponse(step=checkpoint.step, location=str(checkpoint.folder))

    async def WatchSteps(self, request: pb.WatchStepsRequest, context: Context) -> AsyncIterator[pb.WatchStepsResponse]:
        async for record in self._log.watch(request.from_step):
            yield _encode(record)
        if self._control.failure:
            raise PreconditionError(self._control.failure)


def _encode(record: Record) -> pb.WatchStepsResponse:
    if isinstance(record, StepMetrics):
        return pb.WatchStepsResponse(step=pb.StepMetrics(**asdict(record)))
    return pb.WatchStepsResponse(evaluation=pb.Evaluation(**asdict(record)))
