"""The system-call filter, run on a small machine of our own: each call gets its verdict."""

import errno
import platform
import socket
import struct

import pytest

from workers.adapters.sandbox_local import seccomp

X86_64 = 0xC000003E
ALLOW = 0x7FFF0000
KILL = 0x80000000


def verdict(program: bytes, number: int, *arguments: int, arch: int = X86_64) -> int:
    """Classic BPF over a `seccomp_data`: the five instructions that the filter uses."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        match code:
            case 0x20:
                loaded = struct.unpack_from("<I", data, value)[0]
                at += 1
            case 0x15:
                at += 1 + (if_true if loaded == value else if_false)
            case 0x35:
                at += 1 + (if_true if loaded >= value else if_false)
            case 0x45:
                at += 1 + (if_true if loaded & value else if_false)
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)


def refused(code: int) -> int:
    return 0x00050000 | code


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    found = seccomp.program()
    assert found is not None
    return found


def test_every_call_on_the_list_is_refused_and_its_neighbours_are_not(program: bytes) -> None:
    special = {41, 53, 56, 16, 435}
    for number in range(500):
        expected = refused(errno.EPERM) if number in seccomp._NUMBERS.values() else ALLOW
        if number not in special:
            assert verdict(program, number) == expected, number


def test_other_machines_calls_are_never_let_through(program: bytes) -> None:
    assert verdict(program, 0, arch=0x40000003) == KILL
    assert verdict(program, 0x40000000 | 101) == refused(errno.ENOSYS)


def test_threads_and_forks_pass_and_new_namespaces_do_not(program: bytes) -> None:
    assert verdict(program, 56, 0x3D0F00) == ALLOW
    assert verdict(program, 56, 0x01200011) == ALLOW
    for flag in (0x20000, 0x10000000, 0x40000000):
        assert verdict(program, 56, flag | 17) == refused(errno.EPERM)
    assert verdict(program, 435) == refused(errno.ENOSYS)


def test_typing_into_a_terminal_is_refused_and_other_ioctls_pass(program: bytes) -> None:
    assert verdict(program, 16, 0, 0x5401) == ALLOW
    assert verdict(program, 16, 0, 0x5412) == refused(errno.EPERM)
    assert verdict(program, 16, 0, 0x541C) == refused(errno.EPERM)


@pytest.mark.parametrize("call", [41, 53])
def test_only_common_socket_families_pass(program: bytes, call: int) -> None:
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
        assert verdict(program, call, family) == ALLOW
    for family in (17, 38, 40):  # packet, alg, vsock
        assert verdict(program, call, family) == refused(errno.EAFNOSUPPORT)


def test_on_another_machine_there_is_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    assert seccomp.program() is None
