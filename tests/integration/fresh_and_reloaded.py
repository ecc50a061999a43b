"""Engines on the same checkpoints, fresh and after a reload: `python -m tests.integration.fresh_and_reloaded OUT`.

For a tied and an untied policy in fp32 and bf16, two engines are started on two checkpoints, and each then loads the
checkpoint of the other; one receives both by broadcast too. All engines run in one process, one after the other: a
start takes seconds instead of the half minute that vLLM's processes need. They are started as `VllmEngine` starts its
own, and loaded by the same worker code.
Writes a JSON object of logprobs to OUT.
"""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from services.sampler.settings import SamplerSettings
from services.sampler.vllm_arguments import engine_arguments, set_environment
from services.sampler.vllm_engine import transfer_infos
from services.trainer.weight_sender import WeightSender
from tests.integration.sent_weights import giving, layout_of
from tests.integration.tiny_policy import MODEL_TOKENS, VOCABULARY, write_policy

SEQUENCES = [[(1 + i * (j + 2)) % VOCABULARY for i in range(20 + 30 * j)] for j in range(6)]
"""What is scored, longer than a cache block and shorter."""

PRECISIONS: dict[str, tuple[Literal["float32", "bfloat16"], torch.dtype]] = {
    "fp32": ("float32", torch.float32),
    "bf16": ("bfloat16", torch.bfloat16),
}


class InProcessEngine:
    """A vLLM engine in this process; leave it to end it."""

    def __init__(self, folder: Path, precision: Literal["float32", "bfloat16"]) -> None:
        settings = SamplerSettings(
            model=folder,
            precision=precision,
            max_model_tokens=MODEL_TOKENS,
            weights_transport="broadcast",
            instance="test",
        )
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        set_environment(settings, on_cpu=True)
        from vllm import LLM

        self._llm: Any = LLM(**engine_arguments(settings, folder, on_cpu=True, adapters=[]))

    def __enter__(self) -> "InProcessEngine":
        return self

    def __exit__(self, *_: object) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def load(self, folder: Path) -> None:
        """Load as `VllmEngine.replace_weights` does."""
        self._llm.collective_rpc("reload_from", args=(str(folder),))

    def receive(self, folder: Path) -> None:
        """Receive a folder's weights by broadcast, as `VllmEngine.receive_weights` does."""
        weights = load_file(folder / "model.safetensors")
        sender = WeightSender("127.0.0.1", 0, receivers=1, patience_s=60)
        sending = Thread(target=sender.send, args=(giving(weights),))
        sending.start()
        init_info, update_info = transfer_infos(sender.rendezvous(1), layout_of(weights))
        self._llm.collective_rpc("join_broadcast", args=(init_info,))
        self._llm.collective_rpc("receive_broadcast", args=(update_info,))
        sending.join()

    def load_plainly(self, folder: Path) -> None:
        """Load with what vLLM has of its own."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})

    def scores(self) -> list[list[float]]:
        """Logprob of each token but the first of each sequence, in nats."""
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        prompts = [{"prompt_token_ids": sequence} for sequence in SEQUENCES]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [
            [p[t].logprob for t, p in zip(sequence[1:], output.prompt_logprobs[1:], strict=True)]
            for sequence, output in zip(SEQUENCES, outputs, strict=True)
        ]


def main() -> None:
    """Run all engines."""
    results: dict[str, dict[str, list[list[float]]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for tied in (True, False):
            for name, (precision, dtype) in PRECISIONS.items():
                one, two = Path(scratch) / f"{tied}-{name}-1", Path(scratch) / f"{tied}-{name}-2"
                write_policy(one, 1, tied, dtype)
                write_policy(two, 2, tied, dtype)
                scores = results[f"{'tied' if tied else 'untied'} {name}"] = {}
                with InProcessEngine(one, precision) as engine:
                    scores["one, fresh"] = engine.scores()
                    engine.load_plainly(two)
                    scores["two, loaded plainly"] = engine.scores()
                    engine.load(two)
                    scores["two, reloaded"] = engine.scores()
                with InProcessEngine(two, precision) as engine:
                    scores["two, fresh"] = engine.scores()
                    engine.load(one)
                    scores["one, reloaded"] = engine.scores()
                    engine.receive(two)
                    scores["two, received"] = engine.scores()
                    engine.receive(one)
                    scores["one, received"] = engine.scores()
    Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
