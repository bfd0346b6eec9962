"""The card of learned proximal networks."""

from foreknow.core.card import Card

CARD = Card(
    slug="learned-proximal",
    title="What's in a Prior? Learned Proximal Networks for Inverse Problems",
    authors=("Fang, Zhenghan", "Buchanan, Sam", "Sulam, Jeremias"),
    year=2024,
    venue="ICLR",
    room="signals",
    prior=(
        "What clean images look like, as a penalty R whose exact proximal map is learnt from them: the gradient of a "
        "convex network, trained so that it is the proximal map of -sigma^2 log p."
    ),
    control=(
        "off() trains the same convex network on the same images for as many steps by the squared error instead of "
        "proximal matching: a proximal map still, but of no log density (the posterior mean)."
    ),
    inputs="Clean images of one size with values in [0, 1], or vectors; to reconstruct, measurements and an operator.",
    outputs=(
        "Denoised and reconstructed images with a certificate of convergence, and the log density of an image up to a "
        "constant with the residual of the inversion it rests on."
    ),
    cost="minutes",
    tier="beta",
    extras=("images",),
    bibtex=r"""@inproceedings{fang2024whats,
  title     = {What's in a Prior? Learned Proximal Networks for Inverse Problems},
  author    = {Fang, Zhenghan and Buchanan, Sam and Sulam, Jeremias},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2310.14344},
}""",
    deviations=(
        "The prior is read by a quasi-Newton method (L-BFGS) in double precision for all images at once, where the "
        "released code runs conjugate gradients.",
        "R(x) also gives the proximal map of other steps up to 1: prox_{tR}(v) = f(y) where y solves "
        "(1 - t) f(y) + t y = v. The paper uses the step 1 only.",
        "Constrained weights start at exp(u) / fan_in with u uniform of standard deviation 0.1, so that rows sum to "
        "about one; the paper has a normal u and leaves its mean and standard deviation to the experiment.",
        "The network for 28 x 28 pixels serves images of up to 48 pixels a side, the one for 128 x 128 larger ones; "
        "its last convolution covers the whole map, whatever the size.",
        "ADMM returns the last output of the network, which lies in its range.",
        "The augmentation by crops, affine maps and jitter of the CT experiment is not offered; patches are.",
        "The proof uses 5000 digits of MNIST, which a package ships, in place of CelebA and Mayo CT. Its network has "
        "32 hidden channels, 3000 + 3000 steps, batches of 8 images and three times the published learning rate; the "
        "Laplacian a quarter of the published steps. The residual network it is compared with has 1000 steps, each of "
        "which costs as much as several: the seconds are about equal, the steps are not.",
    ),
    limits=(
        "R belongs to one noise level, and is scaled by sigma^2: log densities of networks trained at different sigma "
        "are not the same density.",
        "An image outside the range of the network has no R. The residual of the inversion says so; read it first.",
        "Images larger than the network's are averaged over patches: good pictures, but no exact proximal map and "
        "no convergence guarantee.",
        "The network knows the kind of image it was trained on. On others it may remove what is there.",
        "Where the error of denoising is far below gamma, proximal matching is the squared error up to a factor, and "
        "the prior differs little from its control arm.",
    ),
)
