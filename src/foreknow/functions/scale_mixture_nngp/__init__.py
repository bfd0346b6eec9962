"""Scale mixtures of neural network Gaussian processes: wide networks whose last layer has an unknown variance."""
