"""Memory of a batch is kept for the next one: counted in page faults of a new process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

PROGRAM = """
import resource, sys
import torch
from pipeline.allocator import keep_memory_between_batches

keeps, num_bytes = sys.argv[1], int(sys.argv[2])
assert keep_memory_between_batches(of_any_size=keeps == "any size")
torch.set_num_threads(1)
for _ in range(40):
    torch.ones(num_bytes, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(num_bytes, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keeps: str, num_bytes: int) -> int:
    """Return the page faults of ten equal tensors, after the first forty, as fits around other memory."""
    command = [sys.executable, "-c", PROGRAM, keeps, str(num_bytes)]
    return int(subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize(
    ("keeps", "num_bytes", "are_kept"),
    [
        ("up to 32 MiB", 20 << 20, True),
        ("up to 32 MiB", 44 << 20, False),
        ("any size", 44 << 20, True),
    ],
)
def test_a_tensor_takes_the_memory_of_the_one_before(keeps: str, num_bytes: int, are_kept: bool) -> None:
    # The kernel may use large pages; even then, ten new tensors have ten faults for each 2 MiB.
    assert (faults(keeps, num_bytes) < 50) == are_kept
