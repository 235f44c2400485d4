"""Position embeddings at inference, computed once while the rig stays as it is.

Nothing is guessed: what an embedding depends on is compared, value by value, with what the last one
was computed from. On the nuScenes car every sample is a new rig, since its matrices carry the ego
motion between the times of the sensors; a fixed rig, a standing car and a simulated one repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Question:
    """What an answer depends on: values of tensors, sizes, and torch's modes at the time."""

    tensors: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]
    modes: tuple[object, ...]

    def kept(self) -> Question:
        """The same question, safe from changes in place."""
        return Question(tuple(t.detach().clone() for t in self.tensors), self.sizes, self.modes)

    def equals(self, other: Question) -> bool:
        """Whether every value, type and size is the same."""
        if (self.sizes, self.modes) != (other.sizes, other.modes):
            return False
        pairs = zip(self.tensors, other.tensors, strict=True)
        return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


class LastAnswer:
    """Keeps the last answer of a module, for equal inputs and equal weights.

    One answer is kept, on the CPU only: on a GPU a comparison would make the host wait for the
    device in every pass. Nothing is kept where gradients are wanted.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.last: tuple[Question, Tensor] | None = None

    def __call__(
        self,
        compute: Callable[[], Tensor],
        inputs: tuple[Tensor, ...],
        sizes: tuple[tuple[int, int], ...] = (),
    ) -> Tensor:
        """The answer of ``compute``, which depends on ``inputs``, ``sizes`` and weights alone.

        It is shared between calls: do not change it in place.
        """
        weights = tuple(self.module.parameters())
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            return compute()
        if inputs[0].device.type != "cpu":
            return compute()
        rounding = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        modes = (rounding, torch.is_inference_mode_enabled())
        question = Question((*inputs, *weights, *self.module.buffers()), sizes, modes)
        if self.last is None or not self.last[0].equals(question):
            self.last = question.kept(), compute()
        return self.last[1]
