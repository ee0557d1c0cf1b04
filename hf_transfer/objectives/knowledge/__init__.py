"""Objectives that teach what one knows: rules and constraints on predictions."""
