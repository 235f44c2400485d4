"""The interactive page and exports made from result files; needs numpy and Pillow only."""
