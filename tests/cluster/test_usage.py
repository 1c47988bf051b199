"""What a process measures of itself."""

from __future__ import annotations

import time

from cluster.usage import Usage
from tests.support.descriptors import no_descriptor_left


def test_memory_and_cpu_are_those_of_this_process() -> None:
    """Bytes and seconds."""
    usage = Usage()
    before = usage.cpu_seconds()
    kept = bytearray(b"x" * 2**25)
    while time.process_time() < before + 0.05:
        pass
    assert usage.memory_bytes() > len(kept)
    assert usage.cpu_seconds() >= before + 0.05


def test_a_process_out_of_descriptors_still_measures() -> None:
    """The gauge shows what it knows: to fall over it would cost every client of the process."""
    usage = Usage()
    last = usage.memory_bytes()
    with no_descriptor_left():
        assert usage.memory_bytes() == last
        assert usage.cpu_seconds() > 0
