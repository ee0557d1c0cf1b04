"""Objectives that keep what the source model knew."""
