"""Objectives that change the task loss itself: its targets, or what a row or class counts."""
