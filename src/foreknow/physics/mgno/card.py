"""The card of the multigrid neural operator."""

from foreknow.core.card import Card

CARD = Card(
    slug="mgno",
    title="MgNO: Efficient Parameterization of Linear Operators via Multigrid",
    authors=("He, Juncai", "Liu, Xinliang", "Xu, Jinchao"),
    year=2024,
    venue="ICLR",
    room="physics",
    prior=(
        "The linear maps between fields inside a solution operator are multigrid cycles: near nodes are coupled on the "
        "fine grid, far ones on coarser grids, everywhere by the same few weights; the boundary condition is padding."
    ),
    control=(
        "off() keeps every weight and leaves out the coarser grids: all convolutions act on the finest one, where they "
        "reach a few nodes far; MultigridPrior(linear=False) puts activations inside instead, a U-Net."
    ),
    inputs="Pairs of fields on a square grid: coefficient, force or state in, solution out.",
    outputs="The solution field of every new input field, and in time whole rollouts.",
    extras=("train",),
    cost="hours",
    tier="beta",
    bibtex=r"""@inproceedings{he2024mgno,
  title     = {{MgNO}: Efficient Parameterization of Linear Operators via Multigrid},
  author    = {He, Juncai and Liu, Xinliang and Xu, Jinchao},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2310.19809},
}""",
    deviations=(
        "Prolongations see the boundary condition too; in the released code transposed convolutions are always padded "
        "by zeros, which breaks translation on a periodic grid.",
        "The kernel of a prolongation is chosen from the grid, 3 onto odd and 4 onto even ones; the released code has "
        "one class per data set with kernels written down.",
        "The learning rate moves with every step, in the released code with every epoch; weight decay leaves out "
        "biases; a mean is subtracted and divided by a standard deviation per channel, with a floor that is relative.",
        "The Helmholtz configuration normalises after each prolongation, ends in a 1x1 convolution, pads restrictions "
        "like all else, and trains on a relative H1 error by differences; the released one normalises whole layers, "
        "ends in a cycle, has absolute errors and grids of 101, 50, 24, 11, 5 nodes instead of 101, 51, 26, 13, 7.",
        "norm='layer' has weights for every node as published; norm='group', not tied to the grid, is an addition.",
        "The start as a classical Poisson cycle is an addition of this library and not in the paper.",
        "The values of the rough coefficient are not documented; generated data take 12 and 3 as for the smooth one.",
        "The configuration 'small' and its learning rate, for grids up to about 64 nodes and a processor, are ours.",
        "The small proof trains for 60 epochs, as was meant for it (500 are published), and control arms from three "
        "of the five numbers of pairs; with five layers, and on 65 and 129 nodes a side, there is one number of pairs.",
    ),
    limits=(
        "Fields must lie on a square, regular grid; curved domains and irregular points are not for it.",
        "It is no solver: far from what it was trained on nothing is guaranteed, and errors of a percent are usual.",
        "Weights belong to the spacing they were trained at. Another resolution is computed where its grids are odd "
        "and even at the same levels, but is as a rule much less accurate.",
        "Pointwise normalisation of the output and norm='layer' tie a network to its grid altogether.",
        "Zero padding is applied to what is inside the network: it is the boundary condition of the physical field "
        "only where zero means zero, so not after a mean was subtracted.",
        "The H1 loss by Fourier transform takes fields for periodic; look at the error by differences too.",
    ),
)
