"""The card of prior-data fitted networks."""

from foreknow.core.card import Card

CARD = Card(
    slug="pfn",
    title="Transformers Can Do Bayesian Inference",
    authors=("Müller, Samuel", "Hollmann, Noah", "Pineda Arango, Sebastian", "Grabocka, Josif", "Hutter, Frank"),
    year=2022,
    venue="ICLR",
    room="tasks",
    prior=(
        "The data set was drawn from a simulator one can sample from: a Gaussian process, a random network, "
        "a random table or straight strokes; the prior enters only through the draws the network is trained on."
    ),
    control=(
        "off() trains the same network for the same number of draws from the same simulator with the targets of "
        "each table shuffled over its rows: the marginals of inputs and targets stay, what inputs say of targets "
        "goes. Further arms: an untrained network, and a network trained on a wrong prior (a lengthscale five "
        "times too long)."
    ),
    inputs="A simulator for training; then any small table of numeric rows with targets, and rows to predict.",
    outputs="The posterior predictive distribution of each row's target, from one forward pass.",
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{muller2022transformers,
  title     = {Transformers Can Do {Bayesian} Inference},
  author    = {M{\"u}ller, Samuel and Hollmann, Noah and Pineda Arango, Sebastian
               and Grabocka, Josif and Hutter, Frank},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2112.10510},
}""",
    deviations=(
        "Every table has hyper-parameters and weights of its own; the released code shares them over groups of "
        "tables (a tenth of the batch for the GP mixture, eight tables for the tabular network).",
        "Two-layer network prior: a tanh stands between the layers; the released code has none, which "
        "activation='linear' reproduces. Inputs are not standardised again after the draw.",
        "GP mixture: the released code keeps the noise variance above 1e-4; here it has no floor.",
        "Tabular network prior: the released runs reorder the rows so that the halves above and below the median "
        "alternate; here rows stay exchangeable.",
        "Tabular priors offer 2 to n_classes classes by random quantile cuts, and categorical columns, missing "
        "cells and warped columns; these are extensions, off by default.",
        "Tabular GP prior: the published lengthscale 1.5e-4 makes every label independent of the inputs if it is "
        "read as a length. It is read as the unconstrained parameter of the library used there, so the length is "
        "softplus(1.5e-4) = 0.693, and grows with the square root of the number of used features. Used features "
        "are uniform on 1..n_features; the released sampler stops at n_features - 1.",
        "The outermost borders of the bar head are the medians of the tails under the prior; the released code takes "
        "the most extreme draws, which makes the half-normal tails several times too wide.",
        "Inputs that the prior draws uniformly on [0, 1] are spread to standard deviation 2 before the first layer.",
        "Networks are pre-normalised and trained by Muon (the paper: post-normalised, Adam), which reached a smaller "
        "gap to the exact posterior after equal steps; norm='post', optimizer='adam' give the published form.",
        "The small proof draws the number of context rows uniformly, which at equal steps left smaller gaps than the "
        "weighted draw (cut='weighted') that the released code uses for Gaussian processes.",
        "Optimiser, normalisation, input scale and borders were compared on the held-out tasks of the small proof "
        "itself; rate, batch size and cuts on tasks of another stream.",
        "Strokes are drawn by distance to the segment, hence with round ends; the blur of radius 0.2 is a "
        "three-tap kernel of the same variance.",
    ),
    limits=(
        "A table unlike every draw of the prior gets a confident answer that is wrong; look at draws first.",
        "More rows, columns or classes than in training: quality falls, or the input is refused.",
        "The published tabular priors know numeric columns only and no missing cells.",
        "Each prior needs a network of its own, trained for minutes to days.",
    ),
)
