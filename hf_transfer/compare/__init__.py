"""What recipes that compare ways to train have in common: ways by name, finished runs on disk, tables of scores."""
