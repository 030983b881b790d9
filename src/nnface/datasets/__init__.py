"""Data sets, read as plain samples: one file per data set. No torch."""
