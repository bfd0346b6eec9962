"""The card of martingale posterior neural processes."""

from foreknow.core.card import Card

CARD = Card(
    slug="martingale-np",
    title="Martingale Posterior Neural Processes",
    authors=("Lee, Hyungi", "Yun, Eunggu", "Nam, Giung", "Fong, Edwin", "Lee, Juho"),
    year=2023,
    venue="ICLR",
    room="tasks",
    prior=(
        "Two: a simulator of related tasks, and a predictive rule. A learnt generator draws the unseen rest of a task "
        "as exchangeable pseudo data; what the network makes of seen and unseen data together is a draw from the "
        "posterior over functions."
    ),
    control=(
        "off() draws no pseudo data (K = 0, n_pseudo=0), which leaves a conditional neural process of the same size "
        "and budget. The placebo hands every task the pseudo data of another one. Alternative rules: a latent Gaussian "
        "(NP), a bootstrap of the context (BNP: residual, resampled or with Dirichlet weights)."
    ),
    inputs="A simulator or a collection of related tasks for training; then a few rows of a new task, or pixels.",
    outputs="A mixture of normals at every query row, and samples of whole functions.",
    cost="hours",
    tier="beta",
    bibtex=r"""@inproceedings{lee2023martingale,
  title     = {Martingale Posterior Neural Processes},
  author    = {Lee, Hyungi and Yun, Eunggu and Nam, Giung and Fong, Edwin and Lee, Juho},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  url       = {https://arxiv.org/abs/2304.09431},
}""",
    deviations=(
        "No code of the authors is public: the wiring of the generator and the three losses follow the equations of "
        "the paper; the number of pseudo points (10 to 30), which it leaves open, is a setting.",
        "The attentive variant generates value and key of a pseudo point as one token of twice the width.",
        "Bootstrapping: the residual bootstrap with an adaptation layer (Lee et al. 2020), plain resampling of the "
        "context, and Dirichlet weights; the last acts on the mean, and on attention through its logits.",
        "Noise is drawn with the batch, so that a step depends on its number alone.",
        "One target a row. Several outputs are told apart by an input column (see LotkaVolterraTasks).",
        "With no context the generator and the mean read a vector of zeros.",
        "The networks that ship (width 64, mean aggregation) were trained by Muon for 6000 steps of 16 RBF tasks, with "
        "0 to 47 context rows, 10 pseudo rows, 4 draws and a pseudo term of weight 0.1; the preset 'paper' has the "
        "published sizes, Adam, 256 tasks a step and equal weights. Optimiser and weight were compared on RBF tasks of "
        "another stream. Attentive networks do not ship: they are trained at first use, or by foreknow pretrain "
        "martingale-np.",
        "The small proof is small: 1000 steps of 16 tasks for functions, 500 for digits and years, 300 for attentive "
        "networks, which is less than a thousandth of the tasks of the preset 'paper', and 100 test tasks for each "
        "number of context rows. All arms stay far below the exact Gaussian process on RBF tasks; the proof records by "
        "how much.",
        "Attentive arms are measured on RBF tasks and on years (MPANP and ANP), not on digits.",
        "SVHN, CelebA, the Hudson Bay pelt records and Bayesian optimisation are not measured: no package that the "
        "library uses ships the data; images are handwritten digits.",
    ),
    limits=(
        "Tasks unlike those of training get a confident answer that is wrong.",
        "The standard deviation of a target is never below min_sd (0.1 in the network's units), so the "
        "log-likelihood saturates at 1.38 nat a point: data without noise look noisier than they are.",
        "Inputs far from the range of training are answered with a warning and no guarantee.",
        "Where the functions are draws from a Gaussian process of known kernel, a Gaussian process is better.",
        "The learnt rule is a martingale only as far as training made it one: its gap is measured, not zero.",
    ),
)
