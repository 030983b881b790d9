"""What one does with a data set before training on it: verify it, look at it, find what it holds twice."""
