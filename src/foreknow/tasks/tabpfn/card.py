"""The card of the tabular networks."""

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
        "prior='off' keeps everything but what the network learnt from the draws: TabPFN then reads with the same "
        "network untrained (in the cell form a kernel smoother of random projections), TabularClassifier and "
        "TabularRegressor combine their closed-form heads without it."
    ),
    inputs="A table of up to some thousand rows and a column to predict: numbers, text, booleans, dates, gaps.",
    outputs="A probability for every class of every row; for a number to predict, a whole distribution.",
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
        "TabPFN(form='rows') is the published network (25.82 million parameters) with its training run as the preset "
        "'paper', but no weights of it ship: that run takes days of a GPU. Every table has its own hyper-parameters, "
        "and all tables of a step share rows, columns, classes and the cut, each drawn once; the Gaussian "
        "process has the mean of its random share of the bag (4%); a query never attends to itself.",
        "TabPFN(form='cells') follows the later networks (TabPFN v2, TabICL, LightPFN) by their descriptions: no "
        "register rows, fixed random signs instead of rotary column positions, all heads of the context kept, summary "
        "tokens that start as a random projection of the row (instead of the mean of its cells: .10 nats lower on the "
        "same tables after 120 steps), and a vote whose keys start equal to its queries. It is fitted to the priors of "
        "the package. What ships is far smaller than theirs.",
        "Regression is an extension of this paper: a bar distribution over targets standardised by the context.",
        "Members of the ensemble are at most as many as there are different shifts; probabilities are averaged, after "
        "division of the logits by .8. Cells are clipped at a million standard deviations before the soft clamp.",
        "TabularClassifier and TabularRegressor are not the published network: theirs reads the leave-one-out scores "
        "of closed-form predictors (kernel ridge regressions, random trees, neighbour votes, a forest).",
        "Tree priors are random trees, not boosted trees fitted to noise. Graph priors have at most 4 parents and 8 "
        "entries per node and hidden layers of at most 32 units. Causal networks are cut at 10 layers, 200 units and "
        "40 causes; columns are always permuted, so sort_features has no effect; the target is never a column.",
        "Tables that a kernel ridge cannot tell from noise are redrawn, with a tenth exempt; the published sampler of "
        "networks has no such filter (SCMPrior.published()).",
    ),
    limits=(
        "The published network was built for numbers: at most 1000 rows, 100 columns, 10 classes.",
        "More than some thousand rows: each member of the ensemble sees a stratified sample, with a warning.",
        "The networks that ship were fitted to tables of at most 640 rows, 32 columns and 10 classes; beyond that they "
        "work but were not trained. All were trained on a processor within two hours (their files say how); TabPFN's "
        "own is the weakest: use TabularClassifier and TabularRegressor for results.",
    ),
)
