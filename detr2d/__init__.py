"""The shared DETR core: images, tokens, queries, boxes, set loss, training loop."""

__version__ = "0.1.0"
