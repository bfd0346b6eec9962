"""The card of learning-curve extrapolation."""

from foreknow.core.card import Card

CARD = Card(
    slug="lc-pfn",
    title="Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks",
    authors=("Adriaensen, Steven", "Rakotoarison, Herilalaina", "Müller, Samuel", "Hutter, Frank"),
    year=2023,
    venue="NeurIPS",
    room="tasks",
    prior=(
        "A learning curve is a sum of a power law, an inverse logarithm and a stretched exponential with random "
        "weights and parameters, rises within [0, 1], and is measured with Gaussian noise of unknown size."
    ),
    control=(
        "off() draws the parameters of the same three families from wide uniform priors instead of the published "
        "ones; network, draws and budget stay. The placebo trains on the same curves with their values in random "
        "order. Further controls: sampling the posterior of the same prior by MCMC, least squares, last value."
    ),
    inputs="The first epochs of one metric of one or many runs; gaps are fine.",
    outputs="A predictive distribution of the metric at every later epoch, and the chance of beating another run.",
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{adriaensen2023efficient,
  title     = {Efficient {Bayesian} Learning Curve Extrapolation using Prior-Data Fitted Networks},
  author    = {Adriaensen, Steven and Rakotoarison, Herilalaina and M{\"u}ller, Samuel and Hutter, Frank},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  url       = {https://arxiv.org/abs/2310.20447},
}""",
    deviations=(
        "Muon at a rate of 0.01 instead of AdamW at 0.0001; the preset 'paper' has the latter.",
        "A second network ships for a wider prior with three of the released code's further families; "
        "`foreknow extrapolate` uses it, since its intervals hold on runs that rise late.",
        "The network that ships has tokens of 128 numbers, 4 layers, 4 heads and 500 buckets, is pre-normalised and "
        "saw about a tenth as many curves; the published one has 512, 12 layers, 1000 buckets and is trained on 10 "
        "million. The preset 'paper' has the published sizes.",
        "Training queries are a random part of the epochs that the context leaves out, not all of them, and in three "
        "batches of ten a part of the context is dropped, so that gaps are known from training. The cut-off is drawn "
        "from 0 instead of 1, so that a run without any epoch gets the prior predictive.",
        "One network learns noisy and noiseless targets: a learnt token is added to queries of the noiseless kind, "
        "which are a quarter of the training curves.",
        "The outermost borders of the bar head are the medians of the tails under the prior; the released code takes "
        "the most extreme draws, which makes the half-normal tails several times too wide.",
        "Predictions in the user's units are conditioned on the bounds of the metric. The network itself, as "
        "published, puts some mass beyond 0 and 1, since noise may leave them.",
        "Finite bounds without a soft range map linearly to [0, 1]; the logistic map of the paper's appendix is used "
        "where a bound is infinite or a soft range is given.",
        "Curves of more than 100 epochs are mapped linearly to epochs 1..100, with a warning.",
    ),
    limits=(
        "Curves that fall late (a run that diverges) lie outside the prior: intervals then miss.",
        "So do runs that hardly move at first and rise later: intervals from a few flat epochs are too low and "
        "narrow. CurvePrior.wide(), which is not the paper's, knows such runs.",
        "Forecasts are per-epoch marginals, no paths; the chance of beating a run at any epoch is only bounded below.",
        "At most 100 epochs are resolved; longer curves are thinned to that.",
        "Noise much smaller than a bucket is not resolved: the density saturates at the width of a bucket.",
        "Metrics without finite bounds need a range in which most values are expected.",
    ),
)
