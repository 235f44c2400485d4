import os
import platform
import subprocess
import sys

import pytest
import torch

from detr2d.host import set_up_host

PROGRAM = """
import resource, torch
from detr2d.host import keep_freed_memory
kept = keep_freed_memory()
for step in range(10):
    if step == 6:  # blocks have found their places
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.zeros(12_000_000) for _ in range(4)]
    del maps
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_was_freed_is_used_again() -> None:
    """In a process of its own, for which pages of the kernel's are counted."""
    environment = {key: v for key, v in os.environ.items() if not key.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    kept, pages = map(int, found.stdout.split())
    assert kept
    assert pages < 5000  # of 187 000 that would be new otherwise


def test_threads_are_chosen_or_left() -> None:
    before = torch.get_num_threads()
    set_up_host(0)
    assert torch.get_num_threads() == before
    set_up_host(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)
