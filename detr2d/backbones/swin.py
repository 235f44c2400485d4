"""Swin Transformer for images of any size, with the field's key names.

Liu et al., ICCV 2021. Libraries have it for classification; detectors pad maps to whole windows
before they shift them and mask by the padded size, which is what pretrained detectors expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from detr2d.linear import Linear
from detr2d.structures import FeaturePyramid

HIDDEN = -100.0  # added to attention between tokens that the shift has brought together
INIT_STD = 0.02


class WindowAttention(nn.Module):
    """Attention inside windows with a learned bias for each relative place (eq. 4)."""

    relative_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=INIT_STD)
        self.register_buffer("relative_index", relative_index(window), persistent=False)

    def forward(self, tokens: Tensor, hidden: Tensor | None) -> Tensor:
        """Tokens (W, n, C) of W windows; hidden (W / B, n, n), if any, is added to attention."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        bias = self.relative_position_bias_table[self.relative_index].permute(2, 0, 1)
        bias = bias.unsqueeze(0)  # (1, heads, n, n)
        if hidden is not None:
            repeats = len(tokens) // len(hidden)
            bias = (bias + hidden.unsqueeze(1)).repeat(repeats, 1, 1, 1)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias.to(query)
        )
        return self.proj(attended.transpose(1, 2).flatten(2))


class SwinBlock(nn.Module):
    """Window attention and a perceptron, each normalised first and added (eq. 3)."""

    def __init__(
        self, channels: int, heads: int, window: int, *, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.drop_path = StochasticDepth(drop_path, "row")
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(channels)

    def forward(self, features: Tensor, hidden: Tensor) -> Tensor:
        """Features (B, h, w, C) after this block; ``hidden`` as ``shifted_mask`` gives it."""
        height, width = features.shape[1:3]
        padded = F.pad(
            self.norm1(features), (0, 0, 0, -width % self.window, 0, -height % self.window)
        )
        shifted = padded.roll((-self.shift, -self.shift), (1, 2)) if self.shift else padded
        windows = to_windows(shifted, self.window)
        windows = self.attn(windows, hidden if self.shift else None)
        attended = from_windows(windows, self.window, padded.shape)
        attended = attended.roll((self.shift, self.shift), (1, 2)) if self.shift else attended
        features = features + self.drop_path(attended[:, :height, :width])
        return features + self.drop_path(self.mlp(self.norm2(features)))


class Perceptron(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, 4 * channels)
        self.fc2 = Linear(4 * channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., C) from features (..., C)."""
        return self.fc2(F.gelu(self.fc1(features)))


class PatchMerging(nn.Module):
    """Four neighbours become one cell of twice the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, h / 2, w / 2, 2 C), rounded up, of features (B, h, w, C)."""
        padded = F.pad(features, (0, 0, 0, features.shape[2] % 2, 0, features.shape[1] % 2))
        corners = [padded[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class PatchEmbedding(nn.Module):
    """Patches of 4 x 4 pixels as vectors."""

    def __init__(self, channels: int, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, H / 4, W / 4, C), rounded up, of images (B, 3, H, W)."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.patch, 0, -height % self.patch))
        return self.norm(self.proj(padded).permute(0, 2, 3, 1))


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one with shifted windows, and what merges patches."""

    def __init__(
        self, channels: int, heads: int, window: int, drop_paths: list[float], *, merge: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, shift=window // 2 * (i % 2), drop_path=drop_path)
            for i, drop_path in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels) if merge else nn.Identity()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, h, w, C) of this stage, and those that enter the next."""
        hidden = shifted_mask(features, self.window)
        for block in self.blocks:
            features = block(features, hidden)
        return features, self.downsample(features)


class Swin(nn.Module):
    """Swin Transformer that returns the normalised outputs of chosen stages, from 1 (stride 4)."""

    def __init__(
        self,
        *,
        channels: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        window: int,
        out_stages: tuple[int, ...],
        drop_path: float,
    ) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        self.out_channels = tuple(channels * 2 ** (stage - 1) for stage in out_stages)
        self.patch_embed = PatchEmbedding(channels)
        ends = list(accumulate(depths))
        rates = [drop_path * block / max(1, ends[-1] - 1) for block in range(ends[-1])]
        self.layers = nn.ModuleList(
            SwinStage(
                channels * 2**i, heads[i], window, rates[first:last], merge=i < len(depths) - 1
            )
            for i, (first, last) in enumerate(pairwise([0, *ends]))
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for stage, width in zip(out_stages, self.out_channels, strict=True):
            self.add_module(f"norm{stage - 1}", nn.LayerNorm(width))

    def forward(self, images: Tensor) -> FeaturePyramid:
        """Features (N, C_s, H / stride, W / stride), rounded up, of images (N, 3, H, W)."""
        features, outputs = self.patch_embed(images), []
        for stage, layer in enumerate(self.layers, start=1):
            found, features = layer(features)
            if stage in self.out_stages:
                normed = self.get_submodule(f"norm{stage - 1}")(found)
                outputs.append(normed.permute(0, 3, 1, 2).contiguous())
        return FeaturePyramid(tuple(outputs))


def relative_index(window: int) -> Tensor:
    """Row (n, n) of the bias table for each pair of the n = window x window tokens."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()])  # (2, n)
    steps = places.unsqueeze(2) - places.unsqueeze(1) + window - 1
    return steps[0] * (2 * window - 1) + steps[1]


def to_windows(features: Tensor, window: int) -> Tensor:
    """Windows (B * windows, window * window, C) of features (B, h, w, C), row by row."""
    rows = features.unflatten(1, (-1, window)).unflatten(3, (-1, window))
    return rows.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def from_windows(windows: Tensor, window: int, shape: torch.Size) -> Tensor:
    """The opposite of ``to_windows``: features of ``shape`` (B, h, w, C)."""
    batch, height, width, _ = shape
    grid = windows.unflatten(1, (window, window))
    grid = grid.unflatten(0, (batch, height // window, width // window))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shifted_mask(features: Tensor, window: int) -> Tensor:
    """What attention in shifted windows has to add: (windows, n, n), ``HIDDEN`` between strangers.

    The roll brings the first rows and columns behind the last; those do not see each other.
    """
    shift = window // 2
    regions = []
    for size in features.shape[1:3]:
        padded = size + -size % window
        index = torch.arange(padded, device=features.device)
        regions.append((index >= padded - window).int() + (index >= padded - shift).int())
    region = regions[0].unsqueeze(1) * 3 + regions[1]
    windows = to_windows(region[None, ..., None], window).squeeze(-1)
    apart = windows.unsqueeze(1) != windows.unsqueeze(2)
    return torch.where(apart, HIDDEN, 0.0).to(features.dtype)


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Settings of a ``Swin``; the defaults are Swin-L's, pretrained at 384 pixels."""

    channels: int = 192
    """Width of the first stage."""
    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Blocks of each stage."""
    heads: tuple[int, ...] = (6, 12, 24, 48)
    """Attention heads of each stage."""
    window: int = 12
    """Side of a window, in cells."""
    out_stages: tuple[int, ...] = (2, 3, 4)
    """Stages that are handed on, from 1 (stride 4) to 4 (stride 32)."""
    drop_path: float = 0.2
    """How often training skips the last block; earlier ones less."""

    def build(self) -> Swin:
        """Build the backbone with random weights."""
        return Swin(
            channels=self.channels,
            depths=self.depths,
            heads=self.heads,
            window=self.window,
            out_stages=self.out_stages,
            drop_path=self.drop_path,
        )
