"""The card of `functional-prior`."""

from foreknow.core.card import Card

CARD = Card(
    slug="functional-prior",
    title="All You Need is a Good Functional Prior for Bayesian Deep Learning",
    authors=("Tran, Ba-Hien", "Rossi, Simone", "Milios, Dimitrios", "Filippone, Maurizio"),
    year=2022,
    venue="Journal of Machine Learning Research 23",
    room="functions",
    prior="Functions are smooth: weights are drawn so that the network's functions look like those of a target prior, "
    "a Gaussian process unless another is given.",
    control="off() leaves the weights' prior as it is usually written, N(0, 1) for every weight (or one fixed inverse "
    "gamma for all layers); network, likelihood, data and sampler stay.",
    inputs="A table of numbers with a numeric target or classes; a prior over functions.",
    outputs="Predictive distributions from weights sampled of the posterior, with R-hat of function values.",
    cost="minutes",
    tier="beta",
    bibtex="@article{tran2022functional, title={All You Need is a Good Functional Prior for Bayesian Deep Learning}, "
    "author={Tran, Ba-Hien and Rossi, Simone and Milios, Dimitrios and Filippone, Maurizio}, "
    "journal={Journal of Machine Learning Research}, volume={23}, year={2022}}",
    deviations=(
        "The sampler's step is lr / sqrt(n). Read literally, lr = 0.01 gave chains "
        "3 (n = 64) to 180 (n = 455) times as wide as the exact posterior of a linear model; SGHMCSettings("
        "scale_lr=False) restores it.",
        "Three settings of the sampler were compared on the first three of the proof's curves; the published stayed.",
        "The critic's two bags of functions are drawn once every outer step, and each inner step takes new "
        "interpolates between them.",
        "With the flow family chains move in the base of the flow, where the density is normal, so planar flows need "
        "no inverse; the base's standard deviations are tuned with the flow.",
        "The hyper-prior of the target's variance is LogNormal(0.1, 1), as in the released code: 0.1 is the mean of "
        "the logarithm, not the variance.",
        "The small preset takes fewer outer and inner steps, functions and measurement points than published, and in "
        "the proof's curves a larger rate; 'paper' has the published numbers.",
        "The control arm's weights are N(0, 1) without a division by fan_in. The proof shows N(0, 1 / fan_in) beside "
        "it.",
        "Convolutional networks are matched and sampled through `fit(network=...)`; none was trained here.",
    ),
    limits=(
        "A network that cannot make the target's functions (ReLU units and a smooth target, one narrow layer and a "
        "short lengthscale) stays at a distance; measure it (the page shows how) before trusting it.",
        "Matching takes a minute or more on a processor, and is needed once for each network and target.",
        "Sampling is for networks of some thousand weights; the sampler's steps are biased by their size.",
        "The noise variance is a setting, not learnt.",
        "On small tables of classes the matched prior need not pay: its own price, on wine, has it no better than "
        "N(0, 1) weights in log-loss and worse in code length, for many times their time.",
        "After few steps of matching functions are too small and still too smooth.",
    ),
)
