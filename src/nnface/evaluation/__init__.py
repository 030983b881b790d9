"""Run a predictor over a data set and hand what it says to a metric."""
