"""The card of deep kernel machines."""

from foreknow.core.card import Card

CARD = Card(
    slug="deep-kernel-machine",
    title="A theory of representation learning gives a deep generalisation of kernel methods",
    authors=(
        "Yang, Adam X.",
        "Robeyns, Maxime",
        "Milsom, Edward",
        "Anson, Ben",
        "Schoots, Nandi",
        "Aitchison, Laurence",
    ),
    year=2023,
    venue="ICML",
    room="functions",
    prior=(
        "Each layer's Gram matrix is near to what an infinitely wide random layer makes of the one before, and may be "
        "moved from there by the data at a price of nu times a Kullback-Leibler divergence."
    ),
    control=(
        "off() sets nu to infinity, which is exactly the Gaussian process of the infinitely wide network (NNGP): same "
        "kernels, inducing points, likelihood, steps at most and early stopping, and no representation learning. "
        "Further arms: nu = 0 (no price), and the placebo of paying for the distance to the kernel of other points."
    ),
    inputs="Rows of numbers with a numeric target or a class, 50 to 50 000 of them.",
    outputs="A normal distribution or class probabilities for each row, and the Gram matrix that each layer learnt.",
    cost="minutes",
    tier="study",
    bibtex=r"""@inproceedings{yang2023theory,
  title     = {A theory of representation learning gives a deep generalisation of kernel methods},
  author    = {Yang, Adam X. and Robeyns, Maxime and Milsom, Edward and Anson, Ben and Schoots, Nandi
               and Aitchison, Laurence},
  booktitle = {International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {202},
  year      = {2023},
  url       = {https://arxiv.org/abs/2108.13097},
}""",
    deviations=(
        "G_l = L R R' L' with K = L L' instead of V V' / P: the same matrices (V = L R sqrt(P)), but R = I is the "
        "infinitely wide network and the divergence needs no inverse. factor='cholesky' makes R triangular, 'square' "
        "leaves it free.",
        "The objective has nu times the number of outputs as its weight, so that nu is the width of a layer in units "
        "of the number of outputs.",
        "A normal likelihood on all rows takes the best distribution of the inducing outputs in closed form; batches "
        "and classes use the whitened variational form, and the softmax expectation sixteen fixed draws.",
        "Scales, noise and inducing points are learnt first with the Gram matrices of the infinitely wide network; "
        "these are freed thereafter. nu='auto' and early_stopping choose nu and the number of those steps on fifths "
        "of the rows held out in turn and then learn from all, nu = inf like any other; the divergence restrains the "
        "inducing points only, and long training overfits at small nu.",
        "The Langevin dynamics of the proof accept or turn back each step (Horowitz 1991).",
        "Input scales, kernels and learning rates are assumed; a bias of variance 0.1 stands behind the arc-cosine "
        "kernel. Chunked Cholesky factors, which are about the memory of a GPU, and convolutional machines are left "
        "out.",
    ),
    limits=(
        "Do not expect a gain over its own infinite-width limit (nu = inf) on tables of one target and some hundreds "
        "of rows: the evidence of its small proof has the numbers. nu='auto' has inf among its choices; compare with "
        "prior='off' before you rely on it.",
        "One target of numbers is little evidence for a representation, and the objective is no bound on the evidence: "
        "at small nu it overfits, and with columns of noise badly so.",
        "Full-batch learning is cubic in the rows and refuses more than 3000; use inducing points.",
        "Steps with 100 inducing points take some ten milliseconds each on a processor; boosting is quicker.",
        "Numeric columns only, standardised; no missing cells.",
    ),
)
