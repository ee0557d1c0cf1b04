"""Training a head on cached features under the `Trainer`."""
