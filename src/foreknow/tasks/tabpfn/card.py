"""The card of the tabular network."""

from foreknow.core.card import Card

CARD = Card(
    slug="tabpfn",
    title="TabPFN: A Transformer That Solves Small Tabular Classification Problems in a Second",
    authors=("Hollmann, Noah", "Müller, Samuel", "Eggensperger, Katharina", "Hutter, Frank"),
    year=2023,
    venue="ICLR",
    room="tasks",
    prior=(
        "A table was made by a simple random mechanism: a sparse structural causal model, a random network, a few "
        "random trees or a short rule; the network is fitted to draws of such tables only."
    ),
    control=(
        "off() silences what the network learnt from the draws: the closed-form heads are averaged with equal "
        "weights, which is the network's own state before training."
    ),
    inputs="A table of up to some thousand rows and a column to predict: numbers, text, booleans, dates, gaps.",
    outputs="A probability for every class of every row.",
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{hollmann2023tabpfn,
  title     = {{TabPFN}: A Transformer That Solves Small Tabular Classification Problems in a Second},
  author    = {Hollmann, Noah and M{\"u}ller, Samuel and Eggensperger, Katharina and Hutter, Frank},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  url       = {https://arxiv.org/abs/2207.01848},
}""",
    deviations=(
        "TabularClassifier does not ship the published row-token network: its network reads the leave-one-out scores "
        "of closed-form predictors (kernel ridge regressions, random trees, neighbour votes), one token per row and "
        "class. The published network, the regression twin and the proof are not in this version.",
        "The shipped network was fitted in 47 minutes of one core, to the priors of the package shortly before "
        "their last revision: it saw fewer tables whose classes lie around centres.",
        "Tree priors are random trees, not boosted trees fitted to noise. Graph priors have at most 4 parents and 8 "
        "entries per node and hidden layers of at most 32 units. Causal networks are cut at 10 layers, 200 units and "
        "40 causes; columns are always permuted, so sort_features has no effect; the target is never a column.",
        "Tables that a kernel ridge cannot tell from noise are redrawn, with a tenth exempt; the published sampler of "
        "networks has no such filter (SCMPrior.published()).",
    ),
    limits=(
        "Classification only in this version.",
        "More than some thousand rows: each member of the ensemble sees a stratified sample, with a warning.",
        "The network was fitted to tables of at most 24 columns, 10 classes and some 400 rows; beyond that it "
        "works, by construction, but was not trained.",
    ),
)
