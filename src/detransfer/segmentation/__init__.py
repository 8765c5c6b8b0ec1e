"""Semantic segmentation: DeepLab, its training, and scores near to and far from borders."""
