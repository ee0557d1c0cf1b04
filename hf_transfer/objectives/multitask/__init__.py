"""The objective of several tasks, how it weighs them, and how it combines their gradients."""
