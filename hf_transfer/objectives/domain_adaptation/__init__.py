"""Objectives that bring the features of several domains together."""
