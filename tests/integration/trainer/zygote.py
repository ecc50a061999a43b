"""Starts trainer processes by fork from a process that has imported everything: a start costs a second and not ten.

Reads one JSON array a line: command-line words, and the call at which the trainer is to be killed, or null. Answers
with the process id, and, once it has ended, its exit code. What is forked has opened nothing and started no thread: it
is as good as a new process.
"""

import importlib
import inspect
import itertools
import json
import os
import signal
import sys
import threading
import warnings
from functools import reduce, wraps
from typing import Any


def kill_at(target: str, when: str, number: int) -> None:
    """Have this process kill itself before or after a call of `module:attribute`, the first being 1."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = reduce(getattr, owners, importlib.import_module(module))
    original, numbers = getattr(owner, name), itertools.count(1)

    def reached(now: str, this: int) -> None:
        if (now, this) == (when, number):
            os.kill(os.getpid(), signal.SIGKILL)

    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        this = next(numbers)
        reached("before", this)
        result = original(*args, **kwargs)
        reached("after", this)
        return result

    @wraps(original)
    async def call_and_wait(*args: Any, **kwargs: Any) -> Any:
        this = next(numbers)
        reached("before", this)
        result = await original(*args, **kwargs)
        reached("after", this)
        return result

    setattr(owner, name, call_and_wait if inspect.iscoroutinefunction(original) else call)


def main() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    warnings.simplefilter("ignore")
    import deepspeed  # type: ignore[import-untyped]  # noqa: F401
    from transformers import AutoTokenizer, Qwen2ForCausalLM  # noqa: F401

    import services.trainer.training_run  # noqa: F401
    from services.common.entry import run_service
    from services.trainer.__main__ import serve
    from services.trainer.settings import TrainerSettings

    assert threading.active_count() == 1, threading.enumerate()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            words, kill = json.loads(line)
            sys.argv = ["services.trainer", *words]
            if kill is not None:
                kill_at(*kill)
            code = 1
            try:
                run_service(TrainerSettings, serve)
                code = 0
            except SystemExit as exit_:
                code = int(exit_.code or 0)
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
