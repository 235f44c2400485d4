"""What a program asks of the machine it runs on: threads, and memory that is kept."""

from __future__ import annotations

import ctypes
import sys

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of settings in glibc's malloc.h
LARGE = 2**30  # bytes


def set_up_host(threads: int) -> None:
    """Choose torch's CPU threads (0 leaves its own choice) and let freed memory be used again."""
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to its peak; tell whether the C library can.

    By itself glibc gives maps of some megabytes back to the system, which clears every page of
    them again in the next step. Children that are forked inherit it. Other C libraries stay as they
    are.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if adjust is None:
        return False
    return bool(adjust(MMAP_THRESHOLD, LARGE)) and bool(adjust(TRIM_THRESHOLD, 2 * LARGE - 1))
