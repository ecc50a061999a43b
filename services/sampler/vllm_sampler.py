"""vLLM's sampler, extended in its worker processes to return two log-probabilities of a token instead of one.

vLLM returns a token's log-probability either raw or after temperature and top-p, one kind for the whole engine. Here a
request that asks for at least one top token gets, in the place of the first of them, the sampled token's
log-probability under the distribution that it was drawn from, under the token id `SAMPLING_LOGPROB`. Requests that ask
for none pay nothing, unless they share an engine step with one that does.

Not covered: vLLM's second model runner, which it prefers where Triton is installed; its sampler is another one.
"""

from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.sample.sampler import Sampler

from services.sampler.vllm_completion import SAMPLING_LOGPROB
from services.sampler.vllm_draws import PreparedDraws

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy draws in vLLM."""


class TwoLogprobsSampler(Sampler):
    """Draws exactly as the sampler that it replaces."""

    def __init__(self, replaced: Sampler) -> None:
        """Take over the settings of a sampler and the way in which it draws."""
        super().__init__(replaced.logprobs_mode, replaced.use_fp64_gumbel)
        self.topk_topp_sampler = replaced.topk_topp_sampler
        self._sampling_logprobs_n1 = torch.empty(0, 1)

    def forward(
        self, logits: torch.Tensor, sampling_metadata: SamplingMetadata, *args: Any, **kwargs: Any
    ) -> SamplerOutput:
        """As vLLM's; the first top token makes way for the second log-probability."""
        output = super().forward(logits, sampling_metadata, *args, **kwargs)
        tensors = output.logprobs_tensors
        if tensors is not None and sampling_metadata.max_num_logprobs:
            ids_nk, logprobs_nk = tensors.logprob_token_ids, tensors.logprobs
            marks_n1 = torch.full_like(ids_nk[:, :1], SAMPLING_LOGPROB)
            output.logprobs_tensors = tensors._replace(
                logprob_token_ids=torch.cat([ids_nk[:, :1], marks_n1, ids_nk[:, 1:-1]], dim=1),
                logprobs=torch.cat([logprobs_nk[:, :1], self._sampling_logprobs_n1, logprobs_nk[:, 1:-1]], dim=1),
            )
        return output

    def sample(
        self, logits: torch.Tensor, sampling_metadata: SamplingMetadata, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As vLLM's; computes the second log-probability where a request asks for it."""
        if not sampling_metadata.max_num_logprobs:
            return super().sample(logits, sampling_metadata, *args, **kwargs)
        logits_nv = logits.clone()  # the draw overwrites them
        sampled_n, processed_nv = super().sample(logits, sampling_metadata, *args, **kwargs)
        self._sampling_logprobs_n1 = sampling_logprobs(logits_nv, sampled_n, sampling_metadata)
        return sampled_n, processed_nv


def sampling_logprobs(
    logits_nv: torch.Tensor, sampled_n: torch.Tensor, sampling_metadata: SamplingMetadata
) -> torch.Tensor:
    """Log-probability of sampled tokens after temperature and top-p, in nats; 0 where the draw was greedy.

    Args:
        logits_nv: logits in which what must not be sampled is masked; overwritten.
        sampled_n: token ids.
        sampling_metadata: temperature and top-p of each request.

    Returns:
        One for each request, of shape (n, 1).
    """
    sampled_n1 = sampled_n.long().unsqueeze(1)
    temperature_n = sampling_metadata.temperature
    if temperature_n is None:  # all are greedy
        return torch.zeros_like(sampled_n1, dtype=torch.float32)
    greedy_n1 = (temperature_n < GREEDY_BELOW).unsqueeze(1)
    logits_nv.div_(temperature_n.unsqueeze(1).masked_fill(greedy_n1, 1.0))
    logits_nv = apply_top_k_top_p(logits_nv, sampling_metadata.top_k, sampling_metadata.top_p)
    logprobs_n1 = logits_nv.log_softmax(dim=-1, dtype=torch.float32).gather(1, sampled_n1)
    return logprobs_n1.masked_fill(greedy_n1, 0.0)


def install(model_runner: Any) -> bool:
    """Replace a model runner's sampler; False where it is not one that can be extended."""
    if not isinstance(model_runner.sampler, Sampler):
        return False
    sampler = TwoLogprobsSampler(model_runner.sampler)
    if current_platform.is_cpu():
        sampler.topk_topp_sampler = PreparedDraws(sampler.topk_topp_sampler)
    model_runner.sampler = sampler
    return True
