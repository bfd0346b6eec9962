"""Wide and deep networks as classifiers: nearest neighbour, majority, or a singular kernel, by the activation."""
