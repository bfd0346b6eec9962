"""The card of scale mixtures of neural network Gaussian processes."""

from foreknow.core.card import Card

CARD = Card(
    slug="scale-mixture-nngp",
    title="Scale Mixtures of Neural Network Gaussian Processes",
    authors=("Lee, Hyungi", "Yun, Eunggu", "Yang, Hongseok", "Lee, Juho"),
    year=2022,
    venue="ICLR",
    room="functions",
    prior=(
        "The function was drawn from a wide deep network whose last layer has a variance that is itself unknown: "
        "inverse gamma, Burr XII or log-normal; in the limit of infinite width a scale mixture of Gaussian processes, "
        "for inverse gamma a Student t process."
    ),
    control=(
        "off() replaces the distribution of the last layer's variance by one value, which leaves the plain Gaussian "
        "process of the same network, all other settings fitted by the same procedure."
    ),
    inputs="Rows of numbers, or small images as rows, with numeric targets (NNGP) or classes (NNGPClassifier).",
    outputs="A Student t (or a mixture of normals) for the target of each row; class probabilities.",
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{lee2022scale,
  title     = {Scale Mixtures of Neural Network {Gaussian} Processes},
  author    = {Lee, Hyungi and Yun, Eunggu and Yang, Hongseok and Lee, Juho},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2107.01408},
}""",
    deviations=(
        "Hyper-parameters are fitted by L-BFGS on logarithms from the likeliest of nine starts; the released code has "
        "up to 30 000 steps of Adam from noise 1e-6. search='grid' compares the values of the released grid instead.",
        "The noise variance is part of the predictive distribution of a new target, not only of the training matrix.",
        "Fitted to the end, the marginal likelihood prefers a point mass to any distribution of the variance: a and b "
        "grow until the t process is the Gaussian one. By default they keep their prior values; fit_prior=True fits "
        "them as published.",
        "Importance sampling for Burr XII and log-normal scales takes the inverse gamma shape of the likelihood as "
        "proposal, at midpoints of equal probability instead of random draws.",
        "Classification: by default the variational posterior is diagonal after whitening (whiten=False: before, as "
        "published), whose bound is far higher; the kernel's settings are learnt for rows and stay fixed for images; "
        "draws are fewer than published (`NNGPClassifier.published` has those). The posterior of the scale is learnt "
        "as its shape and b/a from a narrow start, and Adam's step falls to 0: the end is no matter of speed.",
        "The size of the last layer is learnt in both classifiers; the released code fixes it in both, which leaves "
        "the Gaussian process without a scale to learn. The proof has both, and claims on the former.",
        "Convolutional kernels with flatten or pooling readout; no Wide-ResNet kernel beyond `residual`.",
        "Ensembles of trained convolutional networks are not measured; the law of trained dense ones is.",
        "Of the published regression sets those that need a download are replaced by sets of installed packages.",
    ),
    limits=(
        "Exact inference is cubic in the rows: more than 5000 are refused.",
        "Against a Gaussian process whose scale is tuned, the gain is small from a few dozen rows on.",
        "The noise is mixed with the function: one outlier widens all intervals, it does not get a weight of its own.",
        "For a below 1 the prior variance is infinite: read quantiles, not standard deviations.",
    ),
)
