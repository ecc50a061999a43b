"""How torchrun comes in: starting the processes of one machine, and what it tells each of them.

Several machines are joined by calling torchrun oneself on each, see docs/operating.md.
"""

import ctypes
import os
import signal
import sys
from typing import Literal, NoReturn

_PR_SET_PDEATHSIG = 1

_ONE_MACHINE = {
    # torchrun and the processes meet in a file and on the loopback; without these, in ports that listen everywhere
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "GLOO_SOCKET_IFNAME": "lo",
}


def started_by_torchrun() -> bool:
    """Whether this process is one of torchrun's."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """This process's number among all of the trainer; 0 leads."""
    return int(os.environ.get("RANK", "0"))


def become_torchrun(module: str, processes: int, nccl: Literal["on the loopback", "to other machines"]) -> NoReturn:
    """Become torchrun, which starts a module so many times with this process's command line.

    Args:
        module: what is started.
        processes: how many times.
        nccl: where it connects to. To other machines, it listens on the interface that NCCL_SOCKET_IFNAME names.
    """
    environment = os.environ | _ONE_MACHINE
    if nccl == "on the loopback":
        environment["NCCL_SOCKET_IFNAME"] = "lo"
    words = (
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={processes}"),
        *("--rdzv-backend=c10d", "--rdzv-conf=store_type=file", "--local-addr=127.0.0.1"),
        *("-m", "--", module, *sys.argv[1:]),  # without the dashes it would take some flags for its own
    )
    os.execve(sys.executable, words, environment)


def die_with_torchrun() -> None:
    """Have the kernel kill this process when torchrun is gone: it runs in a session of its own, where none looks."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
