"""What stands behind `recipes/domain_adaptation.py`: methods by name, runs on domains, their comparison and report."""
