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
        "then averaged over the whole distribution of priors. The placebo tells the trained network the parameters of "
        "another task."
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
    deviations=("To be completed.",),
    limits=(
        "A prior far from the distribution of priors of the training gets a wrong posterior without any sign of it.",
    ),
)
