from __future__ import annotations

import torch

from detr2d.constants import constant


def test_a_constant_is_the_tensor_of_its_numbers_in_the_type_asked_for() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    assert torch.equal(constant(((1, 2), (3, 0.1)), like), like.new_tensor([[1, 2], [3, 0.1]]))
    assert constant((1, 2), torch.zeros(1, dtype=torch.long)).dtype == torch.long


def test_a_constant_is_made_once_for_each_type() -> None:
    like = torch.zeros(1)
    assert constant((7, 8), like) is constant((7, 8), torch.ones(3))
    assert constant((7, 8), like) is not constant((7, 8), like.double())


def test_a_constant_first_asked_for_in_inference_mode_serves_gradients() -> None:
    with torch.inference_mode():
        constant((9, 11), torch.zeros(1))
    value = torch.ones(2, requires_grad=True)
    (value * constant((9, 11), value)).sum().backward()
    assert value.grad is not None and value.grad.tolist() == [9, 11]


def test_a_traced_program_leaves_no_stand_in_behind() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        mode.from_tensor(torch.zeros(1)) * constant((12, 13), torch.zeros(1))
    assert type(constant((12, 13), torch.zeros(1))) is torch.Tensor
