"""The card of HAWQ-V3."""

from foreknow.core.card import Card

CARD = Card(
    slug="hawq",
    title="HAWQ-V3: Dyadic Neural Network Quantization",
    authors=(
        "Yao, Zhewei",
        "Dong, Zhen",
        "Zheng, Zhangcheng",
        "Gholami, Amir",
        "Yu, Jiali",
        "Tan, Eric",
        "Wang, Leyuan",
        "Huang, Qijing",
        "Wang, Yida",
        "Mahoney, Michael W.",
        "Keutzer, Kurt",
    ),
    year=2021,
    venue="ICML",
    room="weights",
    prior=(
        "Error is cheap where the loss is flat: before any quantised training, the mean curvature of the loss along a "
        "layer's weights says what rounding them will cost."
    ),
    control=(
        "off() takes every curvature as 1, so that bits go by the squared rounding error of the weights alone; "
        "reading, probes, program, calibration and fine-tuning stay the same."
    ),
    inputs=(
        "A trained convolutional or fully connected network (module or exported program), a few hundred labelled rows, "
        "and a budget of size, bit operations or measured latency."
    ),
    outputs=(
        "Bits for every layer, fine-tuned integer weights, and a graph of integers that classifies with "
        "multiplications, additions and bit shifts; also as ONNX."
    ),
    extras=("train", "onnx"),
    cost="minutes",
    tier="beta",
    bibtex=r"""@inproceedings{yao2021hawqv3,
  title     = {HAWQ-V3: Dyadic Neural Network Quantization},
  author    = {Yao, Zhewei and Dong, Zhen and Zheng, Zhangcheng and Gholami, Amir and Yu, Jiali and Tan, Eric and
               Wang, Leyuan and Huang, Qijing and Wang, Yida and Mahoney, Michael W. and Keutzer, Kurt},
  booktitle = {International Conference on Machine Learning},
  year      = {2021},
  url       = {https://arxiv.org/abs/2011.10680},
}""",
    deviations=(
        "Curvature and rounding error are those of the weights with batch normalisation folded in, which are the ones "
        "that are rounded; the released bit configurations were computed before folding.",
        "One vector of signs probes all layers at once; the published traces take a vector for each layer.",
        "Shifts round halves upwards, as the runtime does, in the simulation too; the released simulation rounds them "
        "to even.",
        "A channel whose weights are next to nothing takes the scale its bias needs; the released floor of 1e-8 "
        "overflows the 32 bits of that bias.",
        "Activation ranges start from the network as it was trained, without rounding, and then move in quantised "
        "training. Percentile ranges and distillation, both optional and off in the published runs, are not offered.",
        "Means over windows round down in integer arithmetic; the released trunc(x + 0.01) agrees for the values that "
        "a ReLU leaves and windows below 100 places.",
        "Which layers share bits follows from the graph: those that read one activation. This gives the published "
        "ties of shortcuts.",
        "Milliseconds of layers are the user's, or those of onnxruntime on a processor; the published ones are those "
        "of TVM on a T4.",
        "The rate of quantised training falls by half a cosine; the published one falls tenfold every 30 passes of 90.",
        "The first weights of quantised training are the trained ones with normalisation folded and its statistics "
        "frozen; the published first phase, where they go on moving, is the setting fold_norm=False.",
        "The small proof measures on 2000 test images, random assignments on 500 of them, so that it fits a processor: "
        "tenths of a point are within the noise.",
    ),
    limits=(
        "Fewer bits give size; whether they give speed depends on the runtime and the processor, and small networks "
        "are slower in integers than in floating point. Measure the exported file.",
        "Only networks of convolutions, linear layers, ReLU and ReLU6, additions, pools and concatenations that return "
        "class scores; anything else is refused by name.",
        "The curvature is that of a trained network on data like its own; of an untrained one, or on other data, it "
        "says nothing.",
        "The rounding of activations has no part in the choice of bits, although it may cost more than that of "
        "weights.",
        "Layers that read the input or give the scores stay at 8 bits.",
    ),
)
