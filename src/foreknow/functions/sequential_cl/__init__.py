"""Sequential Bayesian inference over tasks (Kessler et al. 2023): its failure by HMC, and prototypes that work."""
