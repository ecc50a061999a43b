"""The DeepSpeed engine of a policy. The only file that imports deepspeed, and it does so when an engine is made."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any

import torch
from torch import nn

from services.trainer.settings import TrainerSettings


def make_engine(module: nn.Module, settings: TrainerSettings) -> Any:
    """Put a module into an engine; the process group is there already."""
    deepspeed = _import_deepspeed()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with redirect_stdout(None):  # some of its optimizers print the memory that they take
        engine, *_ = deepspeed.initialize(
            model=module, model_parameters=trained, config=_configuration(settings), dist_init_required=False
        )
    # Without dropout, whatever the model's config says: the importance ratio before the first update must be 1.
    engine.eval()
    return engine


def gathered(parameters: Iterable[nn.Parameter], zero_stage: int) -> AbstractContextManager[Any]:
    """Makes parameters whole while it is entered; under ZeRO-3 each process holds only its share."""
    whole: AbstractContextManager[Any] = _import_deepspeed().zero.GatheredParameters(
        list(parameters), enabled=zero_stage == 3
    )
    return whole


def _import_deepspeed() -> Any:
    cuda = torch.cuda.is_available()
    # Named before the import, so that DeepSpeed does not search and warn.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    import deepspeed  # type: ignore[import-untyped]  # takes seconds

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed's business, but torch says it at every collective.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # On a CPU DeepSpeed would spend a minute compiling this one, and only where a compiler is installed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False)
    return deepspeed


def _configuration(settings: TrainerSettings) -> dict[str, Any]:
    bf16 = settings.precision == "bf16"
    return {
        # The two counts are formal: the policy sets the accumulation boundary and the normalisation itself.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.learning_rate,
                "betas": list(settings.adam_betas),
                "weight_decay": settings.weight_decay,
                "torch_adam": True,  # DeepSpeed's own would be compiled at run time
            },
        },
        "zero_optimization": {
            # in bf16 stage 0 could sum gradients in bf16 alone; stage 1 computes the same otherwise
            "stage": max(settings.zero_stage, 1) if bf16 else settings.zero_stage,
            "offload_optimizer": {"device": "none" if settings.offload == "none" else "cpu"},
            "offload_param": {"device": "cpu" if settings.offload == "optimizer_and_weights" else "none"},
        },
        "bf16": {"enabled": bf16},
        # of many microbatches, each would be rounded away a little more by a sum in bf16
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": sys.maxsize,
    }
