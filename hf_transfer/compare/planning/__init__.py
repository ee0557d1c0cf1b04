"""Which runs of a comparison come when, at which learning rates, within which time."""
