from __future__ import annotations

from dataclasses import replace

import torch

from detr2d.backbones.batch_norm import FixedStatisticsNorm
from detr2d.backbones.vovnet import AggregationBlock, ChannelGate, VoVNetConfig

SMALL = VoVNetConfig(
    widths=(4, 4, 6, 6), channels=(8, 12, 16, 20), repeats=(1, 2, 1, 2), depth=2, stem=4,
    out_stages=(2, 4),
)  # fmt: skip


def test_strides_and_chosen_stages() -> None:
    backbone = SMALL.build()
    maps = backbone(torch.rand(2, 3, 64, 96)).maps
    assert [tuple(m.shape) for m in maps] == [(2, 12, 8, 12), (2, 20, 2, 3)]
    assert backbone.out_channels == (12, 20)


def test_odd_sizes_round_up_behind_the_stem() -> None:
    maps = SMALL.build()(torch.rand(1, 3, 72, 104)).maps
    assert [tuple(m.shape[-2:]) for m in maps] == [(9, 13), (2, 3)]  # of 18 x 26 at stride 4


def test_v99_has_the_published_size() -> None:
    with torch.device("meta"):
        backbone = VoVNetConfig().build()
    assert sum(len(stage) for stage in backbone.stages) == 16
    convs = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len([conv for conv in convs if conv.kernel_size == (3, 3)]) == 3 + 16 * 5


def test_the_gate_is_half_where_the_means_are_zero() -> None:
    gate = ChannelGate(3)
    torch.nn.init.zeros_(gate.fc.bias)
    features = torch.randn(2, 3, 4, 4)
    features = features - features.mean((2, 3), keepdim=True)
    torch.testing.assert_close(gate(features), 0.5 * features)


def test_a_residual_block_adds_its_input() -> None:
    block = AggregationBlock(4, 2, 4, 2, FixedStatisticsNorm, residual=True)
    features = torch.randn(1, 4, 5, 5)
    whole = block(features)
    block.residual = False
    torch.testing.assert_close(whole, block(features) + features)


def test_statistics_never_change_but_scale_and_shift_learn() -> None:
    norm = FixedStatisticsNorm(3).train()
    before = norm(torch.randn(4, 3, 2, 2) + 5)
    before.square().sum().backward()
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()
    assert norm.weight.grad is not None and norm.bias.grad is not None


def test_frozen_stages_leave_the_rest_trainable() -> None:
    backbone = replace(SMALL, frozen_stages=1).build()
    frozen = {name.split(".")[0] + name.split(".")[1] for name, p in backbone.named_parameters()
              if not p.requires_grad}  # fmt: skip
    assert frozen == {"stem0", "stem1", "stem2", "stages0"}
    assert all(p.requires_grad for p in SMALL.build().parameters())
