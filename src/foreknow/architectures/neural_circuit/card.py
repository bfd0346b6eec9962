"""The card of neural circuit architectural priors."""

from foreknow.core.card import Card

CARD = Card(
    slug="neural-circuit",
    title="Neural Circuit Architectural Priors for Embodied Control",
    authors=("Bhattasali, Nikhil X.", "Zador, Anthony M.", "Engel, Tatiana A."),
    year=2022,
    venue="NeurIPS",
    room="architectures",
    prior=(
        "The motor circuit of a worm: which neuron connects to which, whether it excites or inhibits, one weight for "
        "all synapses of a kind, weights that start at +1 or -1, and an oscillator in the head."
    ),
    control=(
        "off() takes a network of two tanh layers of 64 with the same inputs, outputs, episodes and search; each "
        "ingredient of the circuit can be switched off by itself."
    ),
    inputs="A world to act in: the swimmer of dm_control with any number of links, or an environment of one's own.",
    outputs="A controller: observations with the number of the step in, torques in [-1, 1] out.",
    cost="minutes",
    tier="beta",
    extras=("control", "rl"),
    bibtex=r"""@inproceedings{bhattasali2022neural,
  title     = {Neural Circuit Architectural Priors for Embodied Control},
  author    = {Bhattasali, Nikhil X. and Zador, Anthony M. and Engel, Tatiana A.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  url       = {https://arxiv.org/abs/2201.05242},
}""",
    deviations=(
        "Of the published trainings evolution strategies and PPO are offered, DDPG is not.",
        "Evolution strategies search with sigma 0.1 and learning rate 0.1 by default, for trainings of some sixty "
        "episodes; the released script has 0.02 and 0.01, for some thousands, as the preset paper has.",
        "All candidates of a generation start from the same state; the released script draws a state for each.",
        "Steps enter the circuit as whole numbers, not as a fraction in [-1, 1] that is scaled back; networks see the "
        "fraction.",
        "The released module can also count steps by itself; here the caller always passes them.",
        "Navigation: the command to go right is x < -0.1 and left x > 0.1, the published one the other way round. The "
        "head of dm_control's swimmer looks along -y of its frame, so +x is on its left, and the published signs "
        "steer away from the target. The speed is min(1, |y|), of which the paper gives no formula.",
        "PPO is that of stable-baselines3, on whole episodes; an end before the longest episode counts as an end of "
        "the task. The network's inputs are standardised by what training episodes showed, after every generation "
        "of evolution strategies and before every rollout of PPO.",
        "The wrong prior, a circuit whose B-neurons feel some other joint and side, is not in the paper.",
        "The proof trains for 60 episodes and a few seeds, the paper for up to 5 million steps and 10 seeds; the arm "
        "without signs runs all 16 cases of its first weights instead of drawing some.",
    ),
    limits=(
        "The circuit knows how to undulate and nothing else; a walking or grasping body needs another wiring diagram.",
        "An open-loop sine wave in the middle of the range searched, not tuned at all, swims nearly as well as the "
        "untrained circuit; what the circuit adds is that it learns on from there.",
        "A short body (4 links) is swum much worse than a long one, before and after training, and the frozen sine "
        "wave swims it better than the trained circuit; on 8 and 12 links the trained circuit is ahead.",
        "Circuits run one way: a connectome with cycles must be cut before it is a policy.",
        "Saturated neurons have a gradient of zero; PPO learns through its noise, and only slowly.",
        "dm_control works with one release of mujoco only, so the extra pins both.",
    ),
)
