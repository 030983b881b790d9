"""Tables, plots and self-contained HTML pages, for evaluation and curation alike."""
