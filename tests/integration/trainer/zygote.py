"""Starts trainer processes by fork from a process that has imported everything: a start costs a second and not ten.

Reads one JSON array of command-line words a line; answers with the process id, and, once it has ended, its exit code.
What is forked has opened nothing and started no thread: it is as good as a new process.
"""

import json
import os
import sys
import threading
import warnings


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
            sys.argv = ["services.trainer", *json.loads(line)]
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
