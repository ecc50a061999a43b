"""Numbers of the system calls that programs and compilers need, on the machines the sandbox runs on."""

from typing import Final, NamedTuple

# What a program may call with any arguments. Not here on purpose: everything that creates processes, descriptors to
# other processes, sockets, anonymous files, namespaces or mounts, changes files, or reaches into the kernel (bpf,
# io_uring, keyctl, userfaultfd, perf_event_open, ptrace, process_vm_*).
_X86_64: Final = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
    "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "mincore": 27, "madvise": 28, "dup": 32, "dup2": 33, "pause": 34,
    "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39, "exit": 60, "uname": 63,
    "getcwd": 79, "readlink": 89, "umask": 95, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98,
    "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110,
    "getpgrp": 111, "getgroups": 115, "getresuid": 118, "getresgid": 120, "getpgid": 121, "getsid": 124,
    "rt_sigpending": 127, "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131, "statfs": 137,
    "fstatfs": 138, "arch_prctl": 158, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204,
    "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233,
    "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "pselect6": 270, "ppoll": 271,
    "set_robust_list": 273, "epoll_pwait": 281, "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293,
    "getrandom": 318, "membarrier": 324, "statx": 332, "rseq": 334, "close_range": 436, "faccessat2": 439,
}  # fmt: skip
_AARCH64: Final = {
    "getcwd": 17, "eventfd2": 19, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "dup": 23, "dup3": 24,
    "statfs": 43, "fstatfs": 44, "faccessat": 48, "openat": 56, "close": 57, "pipe2": 59,
    "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68,
    "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94,
    "set_tid_address": 96, "futex": 98, "set_robust_list": 99, "nanosleep": 101, "getitimer": 102, "setitimer": 103,
    "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
    "restart_syscall": 128, "sigaltstack": 132, "rt_sigsuspend": 133, "rt_sigaction": 134, "rt_sigprocmask": 135,
    "rt_sigpending": 136, "rt_sigtimedwait": 137, "rt_sigreturn": 139, "getresuid": 148, "getresgid": 150,
    "times": 153, "getpgid": 155, "getsid": 156, "getgroups": 158, "uname": 160, "getrlimit": 163, "getrusage": 165,
    "umask": 166, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176,
    "getegid": 177, "gettid": 178, "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
    "fadvise64": 223, "mprotect": 226, "mincore": 232, "madvise": 233, "getrandom": 278, "membarrier": 283,
    "statx": 291, "rseq": 293, "close_range": 436, "faccessat2": 439,
}  # fmt: skip

# What a program may call with some arguments only, or must be told does not exist.
_X86_64_CONDITIONAL: Final = {
    "clone": 56, "clone3": 435, "kill": 62, "tgkill": 234, "prctl": 157, "ioctl": 16, "prlimit64": 302,
    "fcntl": 72, "socketpair": 53, "sendto": 44, "recvfrom": 45,
}  # fmt: skip
_AARCH64_CONDITIONAL: Final = {
    "clone": 220, "clone3": 435, "kill": 129, "tgkill": 131, "prctl": 167, "ioctl": 29, "prlimit64": 261,
    "fcntl": 25, "socketpair": 199, "sendto": 206, "recvfrom": 207,
}  # fmt: skip

# What a compiler needs besides: it is several programs, which leave files for one another.
_X86_64_COMPILER: Final = {
    "fork": 57, "vfork": 58, "execve": 59, "wait4": 61, "ftruncate": 77, "rename": 82, "unlink": 87, "chmod": 90,
    "fchmod": 91, "waitid": 247, "unlinkat": 263, "renameat": 264, "fchmodat": 268, "renameat2": 316,
}  # fmt: skip
_AARCH64_COMPILER: Final = {
    "unlinkat": 35, "renameat": 38, "ftruncate": 46, "fchmod": 52, "fchmodat": 53, "waitid": 95, "execve": 221,
    "wait4": 260, "renameat2": 276,
}  # fmt: skip


class Machine(NamedTuple):
    """The system calls of one machine, by name: those free for all, those that depend on arguments, and others."""

    audit_architecture: int
    free: dict[str, int]
    conditional: dict[str, int]
    compiler: dict[str, int]
    execveat: int


MACHINES: Final = {
    "x86_64": Machine(0xC000003E, _X86_64, _X86_64_CONDITIONAL, _X86_64_COMPILER, 322),
    "aarch64": Machine(0xC00000B7, _AARCH64, _AARCH64_CONDITIONAL, _AARCH64_COMPILER, 281),
}
"""By the name that `os.uname` gives."""
