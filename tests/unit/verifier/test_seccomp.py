"""The system call filter, judged by running its instructions."""

from types import SimpleNamespace

import pytest

from services.verifier.sandbox.inside.profile import Profile
from services.verifier.sandbox.inside.seccomp import Filter, Instruction, filter_program
from services.verifier.sandbox.inside.system_calls import MACHINES

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
PROCESS = 4242
THREAD_FLAGS = 0x3D0F00  # what pthread_create passes
DETACHED_FLAG = 0x400000  # what musl adds
FORK_FLAGS = 0x01200011


def decide(program: list[Instruction], architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would answer."""
    words = [number, architecture, 0, 0]
    for argument in (*arguments, *[0] * (6 - len(arguments))):
        words += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        match code:
            case 0x20:
                accumulator = words[operand // 4]
            case 0x54:
                accumulator &= operand
            case 0x15:
                position += if_true if accumulator == operand else if_false
            case 0x35:
                position += if_true if accumulator >= operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


@pytest.mark.parametrize("machine", sorted(MACHINES))
class TestFilter:
    def test_listed_calls_are_allowed(self, machine: str) -> None:
        architecture, free, *_ = MACHINES[machine]
        program = filter_program(machine, PROCESS, Profile.PYTHON)
        assert {decide(program, architecture, number) for number in free.values()} == {ALLOW}

    def test_every_other_call_is_refused(self, machine: str) -> None:
        architecture, free, conditional, *_ = MACHINES[machine]
        program = filter_program(machine, PROCESS, Profile.PYTHON)
        others = set(range(600)) - set(free.values()) - set(conditional.values())
        assert {decide(program, architecture, number) for number in others} == {EPERM}

    def test_other_architectures_die(self, machine: str) -> None:
        assert decide(filter_program(machine, PROCESS, Profile.PYTHON), 0x40000003, 1) == KILL

    def test_threads_but_no_processes(self, machine: str) -> None:
        architecture, _, conditional, *_ = MACHINES[machine]
        program = filter_program(machine, PROCESS, Profile.PYTHON)
        assert decide(program, architecture, conditional["clone"], THREAD_FLAGS) == ALLOW
        assert decide(program, architecture, conditional["clone"], THREAD_FLAGS | DETACHED_FLAG) == ALLOW
        assert decide(program, architecture, conditional["clone"], FORK_FLAGS) == EPERM
        new_network, traced = 0x40000000, 0x2000
        for more in (new_network, traced):
            assert decide(program, architecture, conditional["clone"], THREAD_FLAGS | more) == EPERM
        assert decide(program, architecture, conditional["clone3"], 1) == ENOSYS

    def test_signals_only_to_itself(self, machine: str) -> None:
        architecture, _, conditional, *_ = MACHINES[machine]
        program = filter_program(machine, PROCESS, Profile.PYTHON)
        for name in ("kill", "tgkill"):
            assert decide(program, architecture, conditional[name], PROCESS, 9) == ALLOW
            for other in (1, 0, -1 & 0xFFFFFFFF, -PROCESS & 0xFFFFFFFF):
                assert decide(program, architecture, conditional[name], other, 9) == EPERM

    def test_descriptors_cannot_signal_others(self, machine: str) -> None:
        architecture, _, conditional, *_ = MACHINES[machine]
        set_owner, set_signal = 8, 10
        for command in (set_owner, set_signal):
            assert (
                decide(
                    filter_program(machine, PROCESS, Profile.PYTHON), architecture, conditional["fcntl"], 3, command, 1
                )
                == EPERM
            )

    def test_socket_pairs_cannot_name_other_sockets(self, machine: str) -> None:
        architecture, _, conditional, *_ = MACHINES[machine]
        program = filter_program(machine, PROCESS, Profile.PYTHON)
        assert decide(program, architecture, conditional["sendto"], 3, 1, 1, 0, 0, 0) == ALLOW
        for address in (0x7000, 0x7000 << 32):
            assert decide(program, architecture, conditional["sendto"], 3, 1, 1, 0, address, 16) == EPERM
        internet = 2
        assert decide(program, architecture, conditional["socketpair"], internet) == EPERM

    def test_a_compiler_may_start_processes_in_its_own_namespaces_only(self, machine: str) -> None:
        calls = MACHINES[machine]
        program = filter_program(machine, PROCESS, Profile.COMPILER)
        architecture, clone = calls.audit_architecture, calls.conditional["clone"]
        assert decide(program, architecture, calls.compiler["execve"]) == ALLOW
        assert decide(program, architecture, clone, FORK_FLAGS) == ALLOW
        new_user, new_parent = 0x10000000, 0x8000
        for more in (new_user, new_parent):
            assert decide(program, architecture, clone, FORK_FLAGS | more) == EPERM
        others = set(range(600)) - {*calls.free.values(), *calls.conditional.values(), *calls.compiler.values()}
        assert {decide(program, architecture, number) for number in others} == {EPERM}

    def test_a_compiled_program_may_only_execute_its_own_descriptor(self, machine: str) -> None:
        calls = MACHINES[machine]
        program = filter_program(machine, PROCESS, Profile.BINARY)
        by_descriptor = 0x1000
        assert decide(program, calls.audit_architecture, calls.execveat, 5, 0x7000, 0, 0, by_descriptor) == ALLOW
        assert decide(program, calls.audit_architecture, calls.execveat, 5, 0x7000, 0, 0, 0) == EPERM
        assert decide(program, calls.audit_architecture, calls.execveat, 6, 0x7000, 0, 0, by_descriptor) == EPERM
        assert decide(program, calls.audit_architecture, calls.compiler["execve"]) == EPERM
        assert decide(program, calls.audit_architecture, calls.conditional["clone"], FORK_FLAGS) == EPERM


def test_dangerous_calls_are_on_no_list_that_programs_use() -> None:
    dangerous = {
        "socket": 41, "connect": 42, "sendmsg": 46, "fork": 57, "vfork": 58, "execve": 59, "ptrace": 101, "mount": 165,
        "unshare": 272, "process_vm_readv": 310, "memfd_create": 319, "bpf": 321, "userfaultfd": 323,
        "io_uring_setup": 425, "pidfd_open": 434, "keyctl": 250, "setns": 308, "chroot": 161, "shmget": 29,
    }  # fmt: skip
    _, free, conditional, *_ = MACHINES["x86_64"]
    assert not set(dangerous.values()) & {*free.values(), *conditional.values()}


def test_a_machine_without_a_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="riscv64"))
    with pytest.raises(OSError, match="no system calls are listed for riscv64, only for x86_64, aarch64"):
        Filter(Profile.PYTHON)
