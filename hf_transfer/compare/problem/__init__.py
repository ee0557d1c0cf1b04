"""What a comparison is about: rows, base models, and what a strategy is given of them for one run."""
