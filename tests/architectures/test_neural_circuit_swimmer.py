"""The swimmer, the controller trained in it, its files, its price and its proof."""

from __future__ import annotations

import csv
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import foreknow
from foreknow.architectures import Circuit, CircuitController, CircuitPolicy, CircuitPrior, SwimmerWorld
from foreknow.architectures.neural_circuit import ppo, proof, swimmer
from foreknow.architectures.neural_circuit.baselines import EpisodeSource, RandomTorque, SineWave
from foreknow.architectures.neural_circuit.training import Moments, returns
from foreknow.common.errors import CapabilityError, ConfigError, InputError, MissingExtraError
from foreknow.core.world import World, run_episode


def test_untrained_circuit_swims_as_measured_before() -> None:
    """799 of 1000 with 6 links, 342 with 4; a wrong head, sign, limit or counter is far from it."""
    for links, expected in ((6, 799), (4, 342)):
        act = CircuitPolicy(Circuit.swimmer(links - 1)).act()
        assert returns(SwimmerWorld(links), act, [0]).mean() == pytest.approx(expected, abs=20)


def test_forward_is_where_the_nose_goes() -> None:
    world = SwimmerWorld(6, n_steps=200)
    run_episode(world, CircuitPolicy(Circuit.swimmer(5)).act(), 0)
    named = world._physics.named.data
    before, heading = named.xpos["head"].copy(), named.geom_xpos["nose"] - named.xpos["head"]
    for t in range(200, 260):
        world.step(CircuitPolicy(Circuit.swimmer(5)).act()(world._observe(), t))
    assert (named.xpos["head"] - before) @ heading > 0
    assert world._physics.named.data.sensordata["head_vel"][1] == -world.forward_speed()


@pytest.mark.parametrize("task", ["swim", "navigate"])
def test_observations_and_rewards(task: str) -> None:
    world = SwimmerWorld(4, task=task, n_steps=5)
    assert isinstance(world, World)
    first = world.reset(1)
    assert first.shape == (world.n_observations,) == (3 + 12 + 2 * (task == "navigate"),)
    assert (world.reset(1) == first).all()
    assert (world.reset(2) != first).any()
    np.testing.assert_allclose(first[:3], SwimmerWorld(4).reset(1)[:3])
    episode = run_episode(world, lambda obs, t: np.ones(3), 0, n_steps=50)
    assert len(episode.rewards) == 5
    assert ((episode.rewards >= 0) & (episode.rewards <= 1)).all()
    assert pickle.loads(pickle.dumps(world)).reset(1).tolist() == first.tolist()
    with pytest.raises(InputError, match="must lie in"):
        world.step(np.full(3, 1.5))
    with pytest.raises(ConfigError, match="n_links"):
        SwimmerWorld(2)


def test_picture_shows_the_chain_wherever_it_is() -> None:
    world = SwimmerWorld(5, task="navigate", n_steps=3)
    frames = run_episode(world, lambda obs, t: np.zeros(4), 0, picture_every=1).frames
    assert frames is not None
    assert frames.shape == (3, 240, 240, 3)
    world._physics.named.data.qpos["rootx"] += 5.0
    world._physics.forward()
    for image in (frames[0], world.render()):
        red = (image[..., 0] > 180) & (image[..., 1] < 110)
        blue = (image[..., 2] > 90) & (image[..., 0] < 70)
        assert 20 < red.sum() < blue.sum() < 5000


def test_releases_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(module: str, purpose: str) -> None:
        if module.startswith("dm_control"):
            raise AttributeError("no field 'qfrc'")

    monkeypatch.setattr(swimmer, "require", fails)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(MissingExtraError, match="do not fit each other") as raised:
        SwimmerWorld(3).reset(0)
    assert "foreknow[control]" in raised.value.hint
    assert "MUJOCO_GL" not in os.environ


def test_missing_simulator_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.setattr("foreknow.common.deps.available", lambda module: False)
    with pytest.raises(MissingExtraError, match="needs the package 'mujoco'"):
        SwimmerWorld(3).reset(0)


def test_training_by_es_raises_the_return() -> None:
    controller = CircuitController(n_links=6, n_steps=150, episodes=20, random_state=0).fit("swimmer")
    world, starts = SwimmerWorld(6, n_steps=150), (5, 6, 7)
    before = CircuitController(n_links=6, method="none", random_state=0).fit("swimmer")
    assert returns(world, controller.act(), starts).mean() > returns(world, before.act(), starts).mean()
    assert [done for done, _ in controller.curve_] == [10, 20]
    assert controller.n_episodes_ == 20
    shorter = CircuitController(n_links=6, n_steps=150, random_state=0).fit("swimmer", episodes=10)
    assert shorter.curve_ == controller.curve_[:1]  # more episodes go on from fewer
    assert list(controller.pictures()) == ["returns"]
    assert before.pictures() == {}


@pytest.mark.parametrize("prior", ["paper", "off"])
def test_training_by_ppo_moves_the_weights_and_no_global_state(prior: str) -> None:
    settings = {"n_links": 3, "n_steps": 40, "method": "ppo", "random_state": 0}
    start = CircuitController(prior, **settings).fit(None, episodes=0)
    once, again = (CircuitController(prior, **settings).fit(None, episodes=2) for _ in range(2))
    assert (once.weights_ != start.weights_).any()
    assert (once.weights_ == again.weights_).all()
    assert [done for done, _ in once.curve_] == [1, 2]
    if prior == "off":
        assert (once.sd_ != 1).all()


class Counted:
    """Rewards of 1 a step; over after `end` steps, or never."""

    n_observations, n_actions, n_steps = 2, 2, 40

    def __init__(self, end: int | None = None) -> None:
        self.end, self.lengths = end, []

    def reset(self, seed: int) -> np.ndarray:
        self.lengths.append(0)
        self.rng = np.random.default_rng(seed)
        return 5 + self.rng.standard_normal(2)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.lengths[-1] += 1
        return 5 + self.rng.standard_normal(2), 1.0, self.lengths[-1] == self.end

    def render(self) -> np.ndarray:
        return np.zeros((2, 2, 3), dtype=np.uint8)


@pytest.mark.parametrize(("end", "length"), [(None, 40), (15, 15)])
def test_ppo_ends_episodes_and_reports_their_rewards(end: int | None, length: int) -> None:
    world = Counted(end)
    controller = CircuitController(method="ppo", episodes=5, joint_columns=(0, 1), random_state=0).fit(world)
    assert world.lengths == [length] * 5
    assert controller.curve_ == [(number, float(length)) for number in range(1, 6)]


@pytest.mark.parametrize("prior", ["paper", "off"])
def test_ppo_updates_the_policy_that_acted(prior: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first gradient step of every update the policy gives the log-probabilities that were stored."""
    from stable_baselines3 import PPO

    update, differences = PPO.train, []

    def checked(learner: PPO) -> None:
        held = learner.rollout_buffer
        rows, actions = (torch.as_tensor(part[:, 0]) for part in (held.observations, held.actions))
        with torch.no_grad():
            now = learner.policy.evaluate_actions(rows, actions)[1].numpy()
        differences.append(np.abs(now - held.log_probs[:, 0]).max())
        update(learner)

    monkeypatch.setattr(PPO, "train", checked)
    CircuitController(prior, method="ppo", episodes=3, joint_columns=(0, 1), random_state=0).fit(Counted())
    assert len(differences) == 3
    assert max(differences) < 1e-3


@pytest.mark.parametrize(("end", "goes_on"), [(None, True), (15, False)])
def test_ppo_values_what_follows_a_cut_and_not_an_end(end: int | None, goes_on: bool) -> None:
    world = Counted(end)
    with ppo._borrowed_randomness(0):
        learner = ppo._learner(CircuitPolicy(Circuit.swimmer(2)), world)
        torch.nn.init.zeros_(learner.policy.value_net.weight)
        torch.nn.init.constant_(learner.policy.value_net.bias, 7.0)
        rollout = ppo.Rollout(learner, world)
        rollout.add_episode(0)
    rewards = rollout.buffer().rewards[:, 0]
    assert (rewards[:-1] == 1).all()
    assert rewards[-1] == pytest.approx(1 + goes_on * learner.gamma * 7.0)


def test_frozen_weights_move_other_bodies() -> None:
    controller = CircuitController(method="none").fit(None)
    assert returns(SwimmerWorld(8, n_steps=150), controller.act(8), [0]) > 60
    assert controller.weights() == {"osc": 1.0, "ipsi": 1.0, "contra": -1.0, "prop": 1.0}
    off = controller.without_prior().fit(None)
    for ask in (lambda: off.policy(8), off.weights):
        with pytest.raises(CapabilityError):
            ask()


def test_environments_of_gymnasium_with_joints_elsewhere() -> None:
    import gymnasium

    class Arm(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9, 9, (4,))
        action_space = gymnasium.spaces.Box(-2, 2, (2,))

        def reset(self, *, seed=None, options=None):
            self.q = np.zeros(2)
            return np.array([7.0, 7.0, *self.q]), {}

        def step(self, action):
            self.q = self.q + 0.1 * (action - self.q)
            return np.array([7.0, 7.0, *self.q]), float(action[1]), False, False, {}

    controller = CircuitController(n_steps=30, joint_columns=(2, 3), joint_limit=1.0, episodes=4, population=4,
                                   random_state=0).fit(Arm())  # fmt: skip
    assert controller.predict([[7, 7, 0.5, 0.0, 60]])[0, 1] > 0.2  # the second joint follows the first, in column 2
    assert controller.predict([[7, 7, 0.0, 0.0, 60]])[0, 1] == 0
    with pytest.raises(CapabilityError, match="world of your own"):
        controller.apply_files([], Path(), {})


def test_apply_swims_and_writes(tmp_path: Path) -> None:
    path = CircuitController(method="none", random_state=0).fit(None).save(tmp_path / "swim.safetensors")
    told = []
    done = foreknow.load(path).apply_files([], tmp_path, {"links": "4", "seconds": "1.5", "seed": "3"}, told.append)
    with open(tmp_path / "motion.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    assert list(rows[0]) == [
        "seconds",
        *(f"angle_{i}" for i in (1, 2, 3)),
        *(f"torque_{i}" for i in (1, 2, 3)),
        "reward",
    ]
    assert sum(float(row["reward"]) for row in rows) == pytest.approx(done.record["return"], abs=1e-3)
    assert done.pictures["swim"].frames.shape == (25, 240, 240, 3)
    assert done.files == (tmp_path / "motion.csv",)
    assert told
    for options, words in (({"legs": "4"}, "links"), ({"links": "two"}, "number"), ({"links": "2"}, "links")):
        with pytest.raises(ConfigError, match=words):
            foreknow.load(path).apply_files([], tmp_path, options)
    with pytest.raises(InputError, match="no files"):
        foreknow.load(path).apply_files(["rows.csv"], tmp_path, {})
    with pytest.raises(InputError, match="no files"):
        CircuitController.read_files([path], {})


def test_sine_wave_keeps_the_best_it_tried_and_random_torque_repeats() -> None:
    world = SimpleNamespace(n_actions=2, n_steps=30, reset=lambda seed: np.zeros(1))
    world.step = lambda action: (np.zeros(1), -abs(float(action[1] - action[0])), False)  # likes joints in step
    wave = SineWave(0).fit(world, episodes=30)
    assert wave.found_[1] < 0.25  # the phase between joints is small
    assert SineWave(0).fit(world, episodes=0).found_.tolist() == [0.5, 0.5]
    torques = [RandomTorque(1).fit(world).act()(np.zeros(1), 0) for _ in range(2)]
    assert (torques[0] == torques[1]).all()


def test_price_counts_episodes() -> None:
    source = EpisodeSource("short", SwimmerWorld(3, n_steps=8), n_min=2, n_max=4)
    system = CircuitController(n_links=3, population=2)
    price = foreknow.price(system, source, arms=["on", "off", "wrong", "plain"], sizes=[2, 4], seeds=2)
    assert {comparison.arm for comparison in price.comparisons} >= {"off", "wrong", "tuned sine", "random torque"}
    split = source.split(4, 0)
    assert split.train.named == {"episodes": 4}
    assert source.split(4, 1).test.named != split.test.named
    assert len(CircuitController.priced_on("none")) == 1


def test_moments_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(3, 2, (50, 2))
    moments = Moments(2)
    for part in (rows[:7], rows[7:8], rows[8:]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.mean(0))
    np.testing.assert_allclose(moments.sd, rows.std(0))


@pytest.mark.filterwarnings("error")
def test_quick_proof_has_every_arm() -> None:
    evidence = CircuitController.prove(preset="quick", seeds=2)
    assert {record["arm"] for record in evidence.arms} == {*proof.ARMS, *proof.PLAIN, *proof.BY_PPO}
    assert len([record for record in evidence.arms if record["arm"] == "unsigned"]) == 16
    for links in proof.BODIES:
        assert any(note.startswith(f"{links} links") and "tuned sine" in note for note in evidence.notes)
    assert all(np.isfinite(claim.measured) for claim in evidence.claims)
    weights = {record["arm"]: record["weights"] for record in evidence.arms}
    assert (weights["circuit"], weights["unshared"], weights["network"]) == (4, 30, 6085)


def test_paper_preset_builds_and_takes_a_step() -> None:
    sizes = proof.SIZES["paper"]
    assert (sizes.episodes, sizes.n_steps, sizes.settings.sigma, sizes.settings.lr) == (5000, 1000, 0.02, 0.01)
    short = replace(sizes, episodes=8, n_steps=10, n_test=1)
    worlds = {links: SwimmerWorld(links, n_steps=10) for links in (proof.LINKS, *proof.BODIES)}
    record = proof.measure("network", 0, short, worlds)
    assert record["episodes"] == [0, 8]
    assert len(record["returns"]) == 2


def test_navigation_follows_its_commands() -> None:
    controller = CircuitController(task="navigate", method="none", random_state=0).fit(None)
    assert set(controller.weights()) == {"osc", "prop", "ipsi", "contra", "speed", "turn"}
    rows = np.zeros((3, controller.n_observations_ + 1))
    rows[:, 5], rows[:, 6], rows[:, -1] = [-0.5, 0.5, 0.0], -2.0, 45  # the head is at its ventral phase
    right, left, ahead = controller.predict(rows)[:, 0]
    assert right > left
    assert left == ahead == -1  # already as far left as it goes
    wrong = controller.with_wrong_prior().fit(None)
    assert wrong.prior_ == CircuitPrior(speed=True, n_turn=1, wiring="permuted")


@pytest.mark.parametrize("side", [-1, 1])
def test_commands_turn_the_head_towards_the_target(side: int) -> None:
    world = SwimmerWorld(6, task="navigate", n_steps=300)
    act = CircuitController(task="navigate", method="none", random_state=0).fit(None).act()
    observation = world.reset(0)
    data = world._physics.named
    nose, head = data.data.geom_xpos["nose"][:2], data.data.xmat["head"].reshape(3, 3)[:2, :2]
    data.model.geom_pos["target"][:2] = nose + head @ [20.0 * side, -20.0]  # 45 degrees off, too far to be reached
    world._physics.forward()
    angles = []
    for t in range(240):
        observation, *_ = world.step(act(observation if t else world._observe(), t))
        angles.append(np.arctan2(observation[5], -observation[6]))
    start, end = np.pi / 4 * side, np.mean(angles[-60:])  # of a whole period, in which the head sways
    assert abs(end) < abs(start) - 0.2


def test_saved_navigator_is_applied_in_its_task(tmp_path: Path) -> None:
    world = SwimmerWorld(4, task="navigate", n_steps=10)
    path = CircuitController(method="none").fit(world).save(tmp_path / "to.safetensors")
    restored = foreknow.load(path)
    assert restored.task_ == "navigate"
    done = restored.apply_files([], tmp_path, {"seconds": "0.9", "seed": "3"})
    expected = run_episode(SwimmerWorld(4, task="navigate", n_steps=30), restored.act(), 3).total
    assert done.record["return"] == expected > 0
    with pytest.raises(CapabilityError, match="world of your own"):
        CircuitController(method="none", joint_columns=(0, 1)).fit(Counted()).apply_files([], tmp_path, {})
