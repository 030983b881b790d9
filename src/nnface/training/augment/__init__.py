"""Augmentation, a file per task: arrays in, arrays out."""
