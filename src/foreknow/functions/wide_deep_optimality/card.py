"""The card of the optimality of wide and deep networks for classification."""

from foreknow.core.card import Card

CARD = Card(
    slug="wide-deep-optimality",
    title="Wide and Deep Neural Networks Achieve Optimality for Classification",
    authors=("Radhakrishnan, Adityanarayanan", "Belkin, Mikhail", "Uhler, Caroline"),
    year=2023,
    venue="PNAS",
    room="functions",
    prior=(
        "The activation and the depth of an infinitely wide network, chosen before any data so that its tangent kernel "
        "tends to |x - x'|^-d on the sphere of dimension d: Hilbert's estimate, consistent for any distribution."
    ),
    control="off() puts ReLU in place of the designed activation, at the same depth; in the limit it is the majority.",
    inputs="Rows of numbers with classes; they are mapped to a sphere in a way that is stated.",
    outputs="Class shares of each row: votes of the training rows, weighted by the limit or the finite-depth kernel.",
    cost="minutes",
    tier="study",
    bibtex=r"""@article{radhakrishnan2023wide,
  title   = {Wide and Deep Neural Networks Achieve Consistency for Classification},
  author  = {Radhakrishnan, Adityanarayanan and Belkin, Mikhail and Uhler, Caroline},
  journal = {Proceedings of the National Academy of Sciences},
  volume  = {120},
  number  = {14},
  pages   = {e2208779120},
  year    = {2023},
  url     = {https://arxiv.org/abs/2204.14126},
}""",
    deviations=(
        "The theorem was reconstructed without the full text; its exponent was checked against the recursion itself.",
        "In dimension 1, and for exponents other than the dimension, the activation comes from a two-term design "
        "a xi + (1 - a) xi^k of the dual instead of the published cubic.",
        "Classes come from one-vs-rest regressions or votes with the same weights; negative votes count as none where "
        "shares are asked for.",
        "Rows that are alike are merged before the regression, so that contradicting labels average.",
        "Finite-depth kernels of votes, and of regressions from 65 layers on, are interpolated in a table of 4000 "
        "cosines.",
        "The price is that of 200 layers; in the limit the arm without the prior is no more than class frequencies.",
    ),
    limits=(
        "Consistency is asymptotic, its rate logarithmic: tuned nearest neighbours usually win up to 10 000 rows, and "
        "solved kernels that are not consistent, deep ReLU among them, may be ahead up to 1600.",
        "From dimension 20 or so |x - x'|^-d is one nearest neighbour in all but name.",
        "The dimension is that of the sphere, not of a surface in it on which the data may lie: set `dim` if known.",
        "The theorem wants cosines of at least 0; between opposite rows the finite-depth kernel may be negative.",
        "Rows are put on a sphere; far-out rows are all pushed to its equator by append-normalise.",
        "Shares are votes, not calibrated probabilities.",
    ),
)
