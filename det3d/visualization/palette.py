"""Colours that stay apart for every kind of colour vision, and those of the surroundings."""

from __future__ import annotations

from detr2d.labels import Color

# Ten colours found by search: under normal vision and simulated protanopia, deuteranopia and
# tritanopia (Machado et al. 2009, severity 1) every pair is at least 0.10 apart in OKLab.
CLASS_COLORS: tuple[Color, ...] = (
    (0, 169, 255),  # car
    (160, 189, 0),  # truck
    (190, 6, 179),  # construction vehicle
    (223, 241, 83),  # bus
    (37, 136, 99),  # trailer
    (255, 171, 173),  # barrier
    (136, 72, 255),  # motorcycle
    (151, 255, 255),  # bicycle
    (218, 112, 182),  # pedestrian
    (242, 18, 0),  # traffic cone
)
BACKGROUND: Color = (18, 21, 26)
PANEL: Color = (27, 31, 38)
GRID: Color = (64, 71, 82)
TEXT: Color = (226, 230, 236)
MUTED: Color = (142, 150, 162)
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


def class_color(label: int) -> Color:
    """The colour of a class by its label; they repeat after ten classes."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]
