"""The card of the distribution transformer."""

from foreknow.core.card import Card

CARD = Card(
    slug="distribution-transformer",
    title="Distribution Transformers: Fast Approximate Bayesian Inference With On-The-Fly Prior Adaptation",
    authors=("Whittle, George", "Ziomek, Juliusz", "Rawling, Jacob", "Osborne, Michael A."),
    year=2025,
    venue="arXiv",
    room="tasks",
    prior=(
        "The parameters of the prior are given with every question, and the network was trained on draws from a "
        "broad distribution over such parameters."
    ),
    control=(
        "off() shows the same network, trained equally long, one constant instead of the parameters: the posterior is "
        "then averaged over the whole distribution of priors. Of the networks that ship, those of weights='arm' are "
        "such a pair; the one that 'auto' takes for the prior is larger and trained longer. The placebo tells the "
        "trained network the parameters of another task."
    ),
    inputs="A prior (a parametric family or a Gaussian mixture) and any number of observations in named channels.",
    outputs="The posterior as a Gaussian mixture, which can be the next prior.",
    cost="minutes",
    tier="beta",
    bibtex=r"""@misc{whittle2025distribution,
  title  = {Distribution Transformers: Fast Approximate {Bayesian} Inference With On-The-Fly Prior Adaptation},
  author = {Whittle, George and Ziomek, Juliusz and Rawling, Jacob and Osborne, Michael A.},
  year   = {2025},
  url    = {https://arxiv.org/abs/2502.02463},
}""",
    deviations=(
        "The networks that ship have tokens of 32 or 64 numbers, 2 to 5 blocks and 2 or 4 heads, are pre-normalised "
        "and saw 0.3 to 2.6 million tasks; the published one for variances has 64, 6 and 8, is post-normalised and saw "
        "10 million. The preset 'paper' has the published sizes.",
        "Where the prior is a mixture, the networks that ship change its components in their own scale (residual) in "
        "place of replacing them; the preset 'paper' does not.",
        "States, parameters and tokens are standardised by medians and quartiles of draws, and tokens then pass asinh: "
        "variances drawn from published priors span hundreds of powers of ten.",
        "Weights are a log-softmax of logits instead of independent sigmoids renormalised, which are 0 / 0 when all "
        "are small.",
        "The gradient is clipped by its norm to 1, the published code clamps its entries to 10000.",
        "The control arm shows K learnt constant tokens, not one: equal tokens would stay equal.",
        "Concentrations of the published Gamma(1, 1) are raised to 0.01, below which no double can hold the variance.",
        "The variance network that ships was trained with 1 to 8 observations a task, published is 1; the number of "
        "measurements of the quantum and of the data of the Gaussian process tasks varies likewise, but in 'paper'.",
        "What the distributions over mixtures and over the Gaussian process's hyper-parameters are, which noises the "
        "sensors have and how the states move in the filtering tasks was not readable, and is ours.",
        "A single normal or a mixture with too few components is split, one with too many merged, with mean and "
        "covariance kept.",
    ),
    limits=(
        "A prior far from the distribution of priors of the training gets a wrong posterior without any sign of it.",
        "The observation model is that of the training; another sensor needs another network.",
        "Inside the distribution of priors too it is far from exact at the edges: variances whose prior has a tiny "
        "concentration.",
        "Where a closed form or a Gaussian-sum filter exists it is better than the network; for one number, weighing a "
        "thousand draws of the prior is about as good.",
        "The time that it saves is that of many questions or series side by side: for one series of one number "
        "a filter of ten thousand particles takes fewer milliseconds a step.",
        "More observations at once than in training give wrong posteriors, with a warning; several updates do not.",
        "A posterior is a mixture of a few normals of the state, its logarithm or its log odds.",
        "Repeated updates accumulate errors; two hundred steps are tested for ranges and volatility.",
        "The posterior of a parametric prior is projected onto the family when it becomes the next prior.",
    ),
)
