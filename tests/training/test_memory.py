"""A training script keeps the memory that its steps free."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from caffe2flax.training.library.memory import keep_memory

keep_memory()
size = 2**26
for i in range(5):
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert faults < size // resource.getpagesize(), faults
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_large_blocks_are_used_again() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
