"""Model files out to where they run, and published checkpoints in."""
