"""Losses, a file each: network outputs and targets in, scalars out."""
