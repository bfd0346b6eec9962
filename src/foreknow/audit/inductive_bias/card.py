"""The card of the measure of inductive bias."""

from foreknow.core.card import Card

CARD = Card(
    slug="inductive-bias",
    title="Towards Exact Computation of Inductive Bias",
    authors=("Boopathy, Akhilan", "Yue, William", "Hwang, Jaedong", "Iyer, Abhiram", "Fiete, Ila"),
    year=2024,
    venue="IJCAI",
    room="audit",
    prior=(
        "The base space of hypotheses: smooth functions, a Gaussian process with an RBF kernel at the median distance, "
        "among which those that fit the training data are equally plausible as the process says."
    ),
    control=(
        "off() shuffles what a drawn function says over its inputs; conditioned on training data this is the white "
        "kernel, whose hypotheses fit the training data as well and know nothing of any other input."
    ),
    inputs=(
        "Training and test rows with targets and a target loss; or the losses of hypotheses sampled in any way; or a "
        "network to train from many seeds."
    ),
    outputs=(
        "Bits of further knowledge needed to reach the target loss, -log2 of the share of fitting hypotheses that do, "
        "with interval, estimator and whether it is extrapolated; and the hypotheses' own predictions."
    ),
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{boopathy2024towards,
  title     = {Towards Exact Computation of Inductive Bias},
  author    = {Boopathy, Akhilan and Yue, William and Hwang, Jaedong and Iyer, Abhiram and Fiete, Ila},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year      = {2024},
  url       = {https://arxiv.org/abs/2406.15941},
}""",
    deviations=(
        "The published estimator, a noncentral chi-square fitted to sampled losses, is one rung of four; it "
        "understates the bits two to three times in the deep tail of a decaying spectrum. Kernel hypotheses take a "
        "saddlepoint formula without sampling, other Gaussian latents subset simulation, and counts their exact "
        "interval.",
        "Bits are bits: the released function returns nats, and its tail is z^2 / 2 where this one takes -log Phi(z).",
        "The loss is the mean squared error over rows and outputs; the released code sums batch means and divides by "
        "the number of rows.",
        "The lengthscale is the median distance of training rows; the released default of 1 makes the kernel matrix of "
        "pixels the identity.",
        "Kernel systems are solved by a Cholesky factor up to 5000 rows and by conjugate gradients beyond; the "
        "released code learns the solutions by Adam.",
        "The system standardises numeric targets by the training rows before it conditions; the loss is given back in "
        "the units of the target. Classes are one-hot, as published.",
        "Class probabilities are the shares of hypotheses whose output for the class is the largest.",
        "The proof of architectures trains on 1000 signals, the most that fit the time; in trials with 500 signals the "
        "convolution had the lower error rate, but no lower squared error than the MLP.",
        "Of the related prices, code lengths, conditional evidence and median-matched bits are offered (the sample "
        "ratio stands in foreknow.pricing); evidence of whole models (Laplace), surplus description length and bits "
        "of a variational posterior are not.",
        "The paper's error bound in the number of samples and its tables were not available; its tasks Omniglot, "
        "CIFAR-10 and the inverted pendulum are replaced by digits, random teachers and MNIST-1D.",
    ),
    limits=(
        "Bits compare arms only at the same target loss, training data, test rows and budget.",
        "A target below the irreducible noise needs infinitely many bits from every arm; nobody can see that from "
        "losses alone.",
        "A fitted law says little below the smallest loss that was sampled: such bits are marked as extrapolated, and "
        "the interval does not cover laws that were not tried.",
        "Hypotheses that do not fit the training data must be left out, and long training may be needed before they "
        "do.",
        "Bits are sensitive to the spread of the losses: two arms whose losses hardly vary may differ by many bits and "
        "little loss. Look at the losses too.",
        "The base space fits the training data exactly: with noisy targets it fits the noise.",
    ),
)
