"""From a finished training run to a bundle."""
