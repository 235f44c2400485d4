"""Detections, ground truth and rigs as files for every viewer; needs numpy only."""
