"""The table of system calls that a sandboxed process keeps, beside the numbers that libseccomp and the kernel have."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import re
from pathlib import Path

import pytest

from adapters.processes.confined_function import _ARCHITECTURES, _CALLS

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}

ARCHITECTURES = pytest.mark.parametrize(("column", "architecture"), list(enumerate(_ARCHITECTURES)))


@ARCHITECTURES
def test_the_numbers_are_libseccomps(column: int, architecture: str) -> None:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        pytest.skip("libseccomp is not installed")
    resolve = ctypes.CDLL(name).seccomp_syscall_resolve_name_arch
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    own = {call: numbers[column] for call, numbers in _CALLS.items()}
    found = {call: resolve(_ARCHITECTURES[architecture], call.encode()) for call in own}
    assert own == {call: number if number >= 0 else None for call, number in found.items()}


@ARCHITECTURES
def test_the_numbers_are_those_of_the_kernels_headers(column: int, architecture: str) -> None:
    header = next((path for path in HEADERS[architecture] if path.exists()), None)
    if header is None:
        pytest.skip(f"no header of the kernel has the calls of {architecture} here")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    numbers = {name: int(number) for name, number in defined}
    if architecture == "aarch64":
        numbers["newfstatat"] = numbers["fstatat"]
    own = {call: each[column] for call, each in _CALLS.items() if each[column] is not None}
    assert own == {call: numbers.get(call) for call in own}


def test_no_number_is_in_the_table_twice_and_a_filter_can_jump_over_it() -> None:
    for column in range(len(_ARCHITECTURES)):
        numbers = [each[column] for each in _CALLS.values() if each[column] is not None]
        assert len(set(numbers)) == len(numbers) < 256  # a jump of the kernel's packet filter has eight bits
    assert platform.machine() in {*_ARCHITECTURES, "arm64"}
