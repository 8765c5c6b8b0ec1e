"""Frozen features: recorded once an image and backbone, read by whatever asks them something."""
