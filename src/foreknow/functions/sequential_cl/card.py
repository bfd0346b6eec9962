"""The card of `sequential-cl`."""

from foreknow.core.card import Card

CARD = Card(
    slug="sequential-cl",
    title="On Sequential Bayesian Inference for Continual Learning",
    authors=("Kessler, Samuel", "Cobb, Adam", "Rudner, Tim G. J.", "Zohren, Stefan", "Roberts, Stephen J."),
    year=2023,
    venue="Entropy 25(6)",
    room="functions",
    prior="In an encoder's space every class lies around a prototype with a normal prior, and class frequencies have a "
    "Dirichlet prior; the posterior of one task is the prior of the next.",
    control="off() replaces prototypes and class counts by an ordinary softmax head; encoder, replay memory, steps and "
    "order of tasks stay. Part A's control resets the prior to N(0, 1/tau) at every task.",
    inputs="Rows of numbers with classes that arrive task by task.",
    outputs="Class probabilities over all classes seen so far, without being told the task; accuracy of every "
    "task after every task.",
    cost="minutes",
    tier="beta",
    bibtex="@article{kessler2023sequential, title={On Sequential Bayesian Inference for Continual Learning}, "
    "author={Kessler, Samuel and Cobb, Adam and Rudner, Tim G. J. and Zohren, Stefan and Roberts, Stephen J.}, "
    "journal={Entropy}, volume={25}, number={6}, year={2023}}",
    deviations=(
        "Prediction never updates a prototype. The released code evaluates with the routine that updates prototypes by "
        "the test labels.",
        "Prototypes are computed afresh from the rows at hand at the start of every epoch and after the last, so "
        "counts do not grow with epochs; those of old classes from the rows in memory, while their frequencies count "
        "all rows seen.",
        "Concentrations are a constant plus the number of rows seen; they are not learnt besides.",
        "Each class's embeddings have one variance S for all classes and axes, fixed at 0.05 or learnt.",
        "In part A chains start, from the second task on, at draws of the density fitted to the last posterior, not at "
        "random weights; the step size is adapted to an acceptance of 0.8, and masses to the variances seen in "
        "burn-in, also with the published numbers.",
        "RealNVP's first rate is 0.01, not 0.1.",
        "The small proof of part A has networks of 51 weights, three tasks of 200 rows and mixtures of at most 20 "
        "components; 'paper' has the published numbers.",
        "Convolutional encoders go through `fit(encoder=...)`; none was trained here.",
    ),
    limits=(
        "A trained encoder needs a replay memory: without one it drifts and old prototypes point nowhere. Frozen "
        "features need none: streaming LDA on random features keeps no row and does better on digits.",
        "Probabilities are only about classes seen so far; a row of a new class gets one of the old.",
        "The prototypes' normal distributions have one variance; classes of several clusters are not described well.",
        "Exact sequential inference is shown to forget for one mean and for a logistic regression only. The chains "
        "over weights did not mix once a posterior was carried (see R-hat in the evidence), so that they show a "
        "procedure that forgets; `SequentialBayes` is an experiment, no tool.",
    ),
)
