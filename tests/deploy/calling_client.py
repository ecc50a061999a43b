"""A client of all services, which runs in a container beside them and calls until it is told to stop.

Prints a line when each service has answered, and at its end (SIGTERM) one JSON object: the number of calls that
succeeded, by service, and of those that failed, by service and status.
"""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from grpc import aio

from services.common.grpc_server import CHANNEL_OPTIONS
from services.common.restarts import RETRY_OPTIONS
from treerl.common.v1 import problem_pb2, tree_pb2
from treerl.sampler.v1 import sampler_service_pb2 as sampler_pb2
from treerl.sampler.v1.sampler_service_pb2_grpc import SamplerServiceStub
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2
from treerl.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from treerl.verifier.v1 import verifier_service_pb2 as verifier_pb2
from treerl.verifier.v1.verifier_service_pb2_grpc import VerifierServiceStub

PAUSE_S = 0.2
DEADLINE_S = 300.0


async def main() -> None:
    """Call each service, over and over."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    succeeded: Counter[str] = Counter()
    failed: Counter[str] = Counter()

    async def keep_calling(service: str, call: Callable[[], Awaitable[object]]) -> None:
        while not stopping.is_set():
            try:
                await call()
            except aio.AioRpcError as error:
                failed[f"{service}: {error.code().name}: {error.details()}"] += 1
            else:
                if not succeeded[service]:
                    print(f"{service} answers", flush=True)
                succeeded[service] += 1
            await asyncio.sleep(PAUSE_S)

    def channel(service: str) -> aio.Channel:
        return aio.insecure_channel(f"{service}:50051", options=(*CHANNEL_OPTIONS, *RETRY_OPTIONS))

    async with channel("sampler") as to_sampler, channel("verifier") as to_verifier, channel("trainer") as to_trainer:
        sampler, verifier, trainer = (
            SamplerServiceStub(to_sampler),
            VerifierServiceStub(to_verifier),
            TrainerServiceStub(to_trainer),
        )
        await asyncio.gather(
            keep_calling("sampler", lambda: sampler.Generate(generate_request(), timeout=DEADLINE_S)),
            keep_calling("verifier", lambda: verifier.Verify(verify_request(), timeout=DEADLINE_S)),
            keep_calling("trainer", lambda: trainer.GetStatus(trainer_pb2.GetStatusRequest(), timeout=DEADLINE_S)),
        )
    print(json.dumps({"succeeded": succeeded, "failed": failed}), flush=True)


def generate_request() -> sampler_pb2.GenerateRequest:
    """Two short responses."""
    problem = problem_pb2.Problem(id="client", domain=problem_pb2.DOMAIN_MATH, prompt="Start with 3:\n")
    sampling = tree_pb2.SamplingParameters(temperature=1.0, top_p=1.0, max_tokens=16)
    return sampler_pb2.GenerateRequest(problem=problem, sampling=sampling, num_chains=2)


def verify_request() -> verifier_pb2.VerifyRequest:
    """An answer that no cache knows, so that a grader has to work."""
    number = time.monotonic_ns()
    problem = problem_pb2.Problem(id="client", domain=problem_pb2.DOMAIN_MATH, prompt="How many?", answer=str(number))
    return verifier_pb2.VerifyRequest(problem=problem, response=f"\\boxed{{{number}}}")


if __name__ == "__main__":
    asyncio.run(main())
