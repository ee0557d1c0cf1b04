"""Several tasks on one backbone: data, heads, evaluation, export and report."""
