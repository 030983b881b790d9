"""Training: recipes, one loop, and a file per task."""
