"""Objectives that learn from a teacher: its predictions, its features, how it relates examples."""
