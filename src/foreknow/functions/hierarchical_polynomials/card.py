"""The card of hierarchical polynomials."""

from foreknow.core.card import Card

CARD = Card(
    slug="hierarchical-polynomials",
    title="Learning Hierarchical Polynomials with Three-Layer Neural Networks",
    authors=("Wang, Zihao", "Nichani, Eshaan", "Lee, Jason D."),
    year=2024,
    venue="ICLR",
    room="functions",
    prior=(
        "The target is a function of one number, and that number is a polynomial of low degree in all inputs: a "
        "network of three layers with a bottleneck of width one, trained layer by layer, finds the number first."
    ),
    control=(
        "off() leaves out the outer layer: the same frozen neurons, fitted to the same rows by the same ridge, which "
        "is a kernel method. Further arms: the same three layers trained jointly by Adam, a two-layer network, "
        "kernel ridge, and the placebo of an outer layer on another feature (weights of the bottleneck permuted)."
    ),
    inputs="Rows of numbers with a numeric target; rows should be near to normal and are whitened where they are not.",
    outputs="The recovered feature, the link from it to the target, and a normal distribution for each row's target.",
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{wang2024learning,
  title     = {Learning Hierarchical Polynomials with Three-Layer Neural Networks},
  author    = {Wang, Zihao and Nichani, Eshaan and Lee, Jason D.},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2311.13774},
}""",
    deviations=(
        "Assumed, as the abstract does not say: shifts of the inner neurons are standard normal, thresholds of the "
        "outer ones uniform on [-3, 3] after the bottleneck is brought to unit standard deviation.",
        "Both stages are solved in closed form by default, which gives the minimisers of the published gradient "
        "descent; solver='descent' runs the descent itself.",
        "The mean of the target is subtracted first and both penalties are chosen by leave-one-out on the rows of "
        "their stage.",
        "split='half' is the published use of data. split='crossfit' (ours) lets both stages see all rows: the second "
        "one sees, for every row, the feature fitted without that row.",
        "inner='hermite' (ours) projects every neuron on polynomials of degree exactly k, which removes the lower "
        "degrees that a finite number of inputs leaves in the target; kernel=True takes infinitely many neurons.",
        "n_refine (ours, 0 by default) fits the bottleneck again through the link by Gauss-Newton steps; rows held out "
        "say how many.",
        "Whitening, the check of normality, and the predictive distribution (normal, with the spread of the "
        "leave-one-out residuals) are ours: the theory is about standard normal inputs and means.",
    ),
    limits=(
        "It helps where the target depends on one polynomial feature through a link that rises on average; with an "
        "even link (E g' = 0) the first stage finds nothing, and neither does the rest.",
        "At the dimensions measured here, the same three layers trained jointly by Adam do better than the two "
        "published stages, cross-fitted or not, and so do tuned kernels than the published ones in most cells; of the "
        "layerwise arms only our n_refine does better than both.",
        "The theory needs standard normal inputs; on whitened tables it is a heuristic. On the two tables of the proof "
        "tuned kernels and networks trained by Adam mostly do better; boosting does worse on the small one.",
        "Needs some multiple of d^k rows (about ten d^2 for k = 2): below that the feature is noise.",
        "Numeric columns and numeric targets only.",
    ),
)
