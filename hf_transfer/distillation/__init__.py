"""What stands behind `recipes/distillation.py`: a teacher, students, runs with it and without, costs and report."""
