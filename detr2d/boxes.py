"""What a box is: the protocol that lets one matcher and one criterion serve 2D and 3D."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class BoxCodec(Protocol):
    """One parametrisation of boxes: how they are written as codes, compared and trained.

    A box (..., D_box) is what data sets hold and users see; a code (..., D) is what a network
    predicts. ``costs`` and ``losses`` name the same terms, so that weights can be checked by name.
    """

    code_size: int
    terms: tuple[str, ...]

    def encode(self, boxes: Tensor) -> Tensor:
        """Codes (..., D) of boxes (..., D_box)."""

    def decode(self, codes: Tensor) -> Tensor:
        """Boxes (..., D_box) of codes (..., D)."""

    def costs(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Matching costs by term: codes (..., Q, D) against targets' (..., T, D): (..., Q, T)."""

    def losses(self, codes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses by term of matched pairs: codes (M, D) against target codes (M, D): (M,)."""
