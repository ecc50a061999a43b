"""vLLM's draw on a CPU, with the random numbers of seeded requests prepared many at a time.

vLLM asks the generator of each seeded request for one number in each engine step: a millisecond for 128 requests, of a
step that takes fifteen with a model of a million parameters.

Not covered: steps whose draws are discarded, as with chunked prefill; the sampler starts vLLM without it on a CPU.
"""

from weakref import finalize

import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

PREPARED = 64
"""Numbers taken from a generator at once."""

SEED_END = 2**31
"""vLLM's kernel takes seeds below this."""


class PreparedDraws(TopKTopPSampler):
    """Draws from the same distribution as the sampler that it replaces, and repeatably where a request has a seed."""

    def __init__(self, replaced: TopKTopPSampler) -> None:
        """Take over the settings of a sampler."""
        super().__init__(replaced.logprobs_mode, replaced.use_fp64_gumbel)
        self._prepared: dict[int, list[int]] = {}  # by the identity of a generator that lives

    def forward_cpu(
        self,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token ids (n,) drawn by Gumbel's trick from logits (n, v), which are overwritten."""
        seed_n = torch.randint(0, SEED_END, (len(logits),))
        if generators:
            drawn = [(self._prepared.get(id(one)) or self._prepare(one)).pop() for one in generators.values()]
            seed_n[list(generators)] = torch.tensor(drawn)
        logits_nv = apply_top_k_top_p(logits, k, p).float()
        return torch.ops._C.fused_gumbel_argmax(logits_nv, seed_n), None

    def _prepare(self, generator: torch.Generator) -> list[int]:
        if id(generator) not in self._prepared:
            finalize(generator, self._prepared.pop, id(generator))
        self._prepared[id(generator)] = torch.randint(0, SEED_END, (PREPARED,), generator=generator).tolist()
        return self._prepared[id(generator)]
