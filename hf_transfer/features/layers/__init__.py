"""Which block of a model transfers best."""
