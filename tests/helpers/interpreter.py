"""Triton's kernels without a GPU: run by its interpreter, or only compiled for one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from detr2d.ops import triton_devices

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3))
"""Types that kernels take, and how far a sum of a few rounded values may be off."""
REGISTERED = ("test_schema", "test_autograd_registration", "test_faketensor")
"""What ``torch.library.opcheck`` is asked; compiling with gradients says the rest."""


def check_interpreted(module: str) -> None:
    """Assert that all functions of a test module that are called ``interpreted_...`` pass."""
    assert not (report := _reports()[module]), report


@cache
def _reports() -> dict[str, str]:
    """What went wrong in each test module of kernels, "" where nothing did.

    In a process of its own, because the interpreter is chosen when Triton is imported, and in one
    for all modules, because imports take longest. There, our operators think that Triton serves
    the CPU.
    """
    settings = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-m", __name__], env=settings, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout.splitlines()[-1])


def check_close(
    found: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...], close: float
) -> None:
    """Assert equal types, and values that differ by at most ``close`` of the largest."""
    pairs = [(found, expected)] if isinstance(found, Tensor) else zip(found, expected, strict=True)
    for ours, theirs in pairs:
        limit = close * max(1.0, float(theirs.detach().abs().max()) if theirs.numel() else 0.0)
        torch.testing.assert_close(ours, theirs, atol=limit, rtol=close)


def compiles(kernel: Any, pointers: Mapping[str, str], **numbers: int) -> bool:
    """Whether a kernel compiles for an H100, without one.

    pointers: the type of what each points at, in Triton's words; numbers: those known when it is
    compiled. All other arguments are int32.
    """
    import triton  # here, so that tests without it can import this file
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {name: f"*{pointers[name]}" if name in pointers else "i32" for name in kernel.arg_names}
    kinds |= dict.fromkeys(numbers, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in numbers.items()}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=places)
    with TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        return "cubin" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm


def _run() -> None:
    torch.set_num_threads(1)
    triton_devices.HAS_TRITON = True
    triton_devices.triton_serves = lambda *tensors: all(t.dtype != torch.float64 for t in tensors)
    files = sorted((ROOT / "tests").glob("**/test_*_triton.py"))
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    print(json.dumps({module: _report(module) for module in modules}))


def _report(module: str) -> str:
    torch.manual_seed(0)
    try:
        for name, check in vars(importlib.import_module(module)).items():
            if name.startswith("interpreted_"):
                check()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    _run()
