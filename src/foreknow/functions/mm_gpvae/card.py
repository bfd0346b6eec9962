"""The card of the multi-modal Gaussian process variational autoencoder."""

from foreknow.core.card import Card

CARD = Card(
    slug="mm-gpvae",
    title="Multi-modal Gaussian Process Variational Autoencoders for Neural and Behavioral Data",
    authors=("Gondur, Rabia", "Sikandar, Usama Bin", "Schaffer, Evan", "Aoi, Mikio Christian", "Keeley, Stephen L"),
    year=2024,
    venue="ICLR",
    room="functions",
    prior=(
        "What drives neurons and behaviour moves smoothly in time (a Gaussian process with a learnt lengthscale, "
        "kept in the few frequencies of a Fourier basis that it can fill), and is either shared by both or belongs "
        "to one."
    ),
    control=(
        "off() makes the latents of different time bins independent, N(0, I), with the same networks: a plain "
        "multi-modal autoencoder. The placebo is smooth in a shuffled order of the bins. Further controls, in "
        "`arms()`: the same Gaussian process on time bins without Fourier pruning, no shared latent, one modality "
        "alone."
    ),
    inputs="Trials of spike counts (or calcium traces) and of behaviour in the same bins: images, video or positions.",
    outputs="Latents over time in three blocks: neural, shared, behavioural; rates; behaviour, also from spikes alone.",
    cost="minutes",
    tier="study",
    bibtex=r"""@inproceedings{gondur2024multimodal,
  title     = {Multi-modal {Gaussian} Process Variational Autoencoders for Neural and Behavioral Data},
  author    = {Gondur, Rabia and Sikandar, Usama Bin and Schaffer, Evan and Aoi, Mikio Christian and Keeley, Stephen L},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2310.03111},
}""",
    deviations=(
        "The divergence from the prior is the exact one of Gaussians; in the released loop a term 2 m s is added to "
        "it, and its time-domain branch lacks half the log determinant of the covariance.",
        "Each latent has a lengthscale of its own, learnt with the rates of the neural decoder, and it cannot fall "
        "below the smallest one, for which the band of frequencies was chosen; the released code shares one.",
        "A modality that is missing is left out: the shared latent is then that of the other one, and latents that "
        "only the missing one has stay at their prior. The released code averages with zeros.",
        "The linear map from bins to Fourier coefficients is a learnt map of bins to bins, which starts at the "
        "identity, before a fixed projection: the same functions, and the control arms have as many weights.",
        "The neural encoder sees square roots of counts; behaviour is centred and scaled by one number for images, per "
        "variable otherwise; the variance of behaviour is learnt on a log scale and in these units.",
        "Reconstructions put posterior means through the decoders; behaviour of spikes alone is the average over draws "
        "of the latents.",
        "fusion='poe' (product of the two experts), p_alone (trials of training whose shared latents come from one "
        "recording alone) and warmup (first epochs with shared latents from neurons alone) are additions, off by "
        "default, as are trials of unequal length, which end early on the circle of the longest.",
        "The proof has the digits of scikit-learn, 12 x 12 pixels, smaller networks, shorter training at higher rates "
        "and fewer neurons than the paper; its simple baseline is Gaussian-process factor analysis fitted by EM here.",
        "The data of fly and moth are not part of the library.",
    ),
    limits=(
        "Latents are known up to sign, scale and, within a block, rotation; compare within a block only.",
        "With fusion='mean' and p_alone=0, as published, the two encoders need not agree one by one, so behaviour "
        "predicted from spikes alone may be badly scaled; train with p_alone > 0 to predict across.",
        "A circle of 1.2 trials still joins the ends of a trial where the lengthscale is a tenth of it or more; raise "
        "`padding` if the ends matter.",
        "Trials longer than the longest one learnt from are refused.",
        "Shorter lengthscales than min_lengthscale (in bins) cannot be represented.",
        "The zoom of the simulated digits is the absolute value of a latent: that latent cannot be found where it "
        "changes sign.",
        "Posteriors are diagonal over coefficients, so their widths are too small where coefficients depend on "
        "each other.",
    ),
)
