"""The card of `bnn-bo`."""

from foreknow.core.card import Card

CARD = Card(
    slug="bnn-bo",
    title="A Study of Bayesian Neural Network Surrogates for Bayesian Optimization",
    authors=("Li, Yucen Lily", "Rudner, Tim G. J.", "Wilson, Andrew Gordon"),
    year=2024,
    venue="International Conference on Learning Representations",
    room="functions",
    prior="The function to be optimised is a draw of a network with normal weights of one variance, finite or of "
    "infinite width.",
    control="off() takes the distribution over weights away: one network of the same shape, fitted by least squares, "
    "whose best guess is followed greedily.",
    inputs="A function to be optimised and its space, or a table of past trials with their results.",
    outputs="The next points to try, the best one so far, and predictive distributions of any point.",
    cost="minutes",
    tier="beta",
    extras=("bo",),
    bibtex="@inproceedings{li2024study, title={A Study of Bayesian Neural Network Surrogates for Bayesian "
    "Optimization}, author={Li, Yucen Lily and Rudner, Tim G. J. and Wilson, Andrew Gordon}, "
    "booktitle={International Conference on Learning Representations}, year={2024}}",
    deviations=(
        "The released code takes noise_var for the standard deviation of the likelihood; here it is the variance.",
        "The released code trains another network than the one its chain starts from; here chains start at the mode "
        "that Adam found.",
        "Acquisition values average over the weight samples themselves, each once (128 at most, spread evenly), "
        "instead of 128 drawn from them with replacement at every call, so that L-BFGS sees one smooth function.",
        "There are two Hamiltonian chains or more, in the same pass, so that R-hat means something; the number of "
        "leapfrog steps is drawn anew for each proposal.",
        "In the small preset chains start at draws of the prior that Adam has brought to the data, not at a mode: with "
        "100 parameters the mean square of weights was 0.008 at the mode and 0.9 after a long chain from there.",
        "Whole numbers and categories are relaxed while L-BFGS runs; its results are compared and taken when rounded.",
        "Outcomes are standardised for every surrogate, not for the processes alone.",
        "An ensemble is trained with the published noise variance 1; its predictions carry the mean squared error of "
        "its members on all rows instead, since each has left a fifth of them out.",
        "Laplace predictions are functions that are linear in weights drawn around the mode, so that they are joint "
        "over a batch; the +1e-4 on the diagonal of a covariance is not needed then.",
        "Deep kernel learning trains one network for each objective, and keeps the best point of its training.",
        "Of the published problems the textbook ones, draws of networks and polynomials, the oil sorbent and pest "
        "control are here (random rates of the latter are drawn once for each stage, not anew from one seed); the "
        "variance of a Brusselator, the interferometer, cell coverage, the lunar lander and knowledge distillation "
        "need simulators or data that are not. Settings of a support vector machine are ours.",
        "The standard Gaussian process is BoTorch's of today, with lengthscales that grow with the dimension; the one "
        "of 2023 (Matern 5/2, Gamma priors), which the paper used, is an arm of its own.",
    ),
    limits=(
        "No surrogate wins everywhere; in few dimensions the Gaussian process is hard to beat.",
        "Chains cost seconds a round and must be looked at: acceptance and R-hat of function values are kept.",
        "Failed trials are replaced by the worst value seen; where failures fill a region, model them yourself.",
        "Outcome constraints, several fidelities and costs of trials are not modelled.",
    ),
)
