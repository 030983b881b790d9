"""The measures: arrays in, numbers out; no files, no torch."""
