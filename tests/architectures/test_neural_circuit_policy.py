"""The circuit against the paper's equations written out, its limits, and what must not happen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreknow.architectures import Circuit, CircuitController, CircuitPolicy, CircuitPrior, PlainNetwork
from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import torch_stream


def sigma(x: float) -> float:
    return min(max(x, 0.0), 1.0)


def by_hand(q: list[float], t: int, period: int, w: dict[str, float], slow=0.0, right=0.0, left=0.0, n_turn=0) -> list:
    """The equations of the paper, one scalar at a time."""
    n = len(q)
    limit = 2 * math.pi / (n + 1)
    bend = [min(max(angle / limit, -1.0), 1.0) for angle in q]
    d, v = [max(x, 0.0) for x in bend], [max(-x, 0.0) for x in bend]
    o_d = 1.0 if t % period < period / 2 else 0.0
    torques, b_d, b_v = [], [], []
    for i in range(n):
        turn = 1.0 if i < n_turn else 0.0
        drive_d = w["prop"] * d[i - 1] if i > 0 else w["osc"] * o_d
        drive_v = w["prop"] * v[i - 1] if i > 0 else w["osc"] * (1 - o_d)
        b_d.append(sigma(drive_d + w.get("speed", 0) * slow + w.get("turn", 0) * turn * right))
        b_v.append(sigma(drive_v + w.get("speed", 0) * slow + w.get("turn", 0) * turn * left))
        m_d = sigma(w["ipsi"] * b_d[i] + w["contra"] * b_v[i])
        m_v = sigma(w["ipsi"] * b_v[i] + w["contra"] * b_d[i])
        torques.append(m_d - m_v)
    return torques


def with_weights(policy: CircuitPolicy, **values: float) -> CircuitPolicy:
    names = [name for name, _ in policy.circuit.weights]
    with torch.no_grad():
        policy.weights.copy_(torch.tensor([values[name] for name in names], dtype=torch.float64))
    return policy


WEIGHTS = {"prop": 0.7, "osc": 1.3, "ipsi": 0.9, "contra": -0.4}


@pytest.mark.parametrize("n_joints", [2, 5, 11])
def test_policy_is_the_equations(n_joints: int) -> None:
    policy = with_weights(CircuitPolicy(Circuit.swimmer(n_joints, 20)), **WEIGHTS)
    rng = np.random.default_rng(0)
    angles, steps = 1.5 * rng.standard_normal((40, n_joints)), rng.integers(0, 100, 40)
    wanted = [by_hand(list(q), int(t), 20, WEIGHTS) for q, t in zip(angles, steps)]
    found = policy(torch.as_tensor(angles), torch.as_tensor(steps)).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    act = policy.act()
    np.testing.assert_allclose([act(q, int(t)) for q, t in zip(angles, steps)], wanted, atol=1e-12)


def test_commands_slow_and_turn_the_circuit() -> None:
    circuit = Circuit.swimmer(3, 20, speed=True, n_turn=1)
    weights = {**WEIGHTS, "speed": -0.5, "turn": 0.8}
    policy = with_weights(CircuitPolicy(circuit, target_columns=(3, 4)), **weights)
    q = [0.3, -0.6, 1.1]
    for x, y in ((0.5, 0.2), (-0.5, 3.0), (0.05, -0.7)):
        wanted = by_hand(q, 4, 20, weights, 1 - min(abs(y), 1), float(x < -0.1), float(x > 0.1), 1)
        obs = np.array([*q, x, y])
        np.testing.assert_allclose(policy(torch.as_tensor(obs), 4).detach(), wanted, atol=1e-12)
        np.testing.assert_allclose(policy.act()(obs, 4), wanted, atol=1e-12)


def test_head_alone_has_the_oscillator_and_follows_no_joint() -> None:
    policy = CircuitPolicy(Circuit.swimmer(4, 60))
    assert policy(torch.zeros(4), 0).tolist() == [1.0, 0.0, 0.0, 0.0]  # joint 0 is the head
    assert policy(torch.zeros(4), 29).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert policy(torch.zeros(4), 30).tolist() == [-1.0, 0.0, 0.0, 0.0]
    assert policy(torch.tensor([0.5, 0.0, 0.0, 0.0]), 60)[1] > 0  # what the head does the next joint does after it
    assert policy(torch.tensor([0.0, 0.0, 0.0, 9.0]), 60).tolist() == [1.0, 0.0, 0.0, 0.0]  # the tail tells nobody


def test_neurons_saturate_at_one_and_angles_at_their_limit() -> None:
    policy = with_weights(CircuitPolicy(Circuit.swimmer(2)), prop=10.0, osc=10.0, ipsi=10.0, contra=-1.0)
    limit = 2 * math.pi / 3
    assert policy(torch.tensor([5 * limit, 0.0]), 0).tolist() == [1.0, 1.0]
    weak = with_weights(policy, prop=1.0, osc=1.0, ipsi=0.5, contra=0.0)
    assert weak(torch.tensor([0.5 * limit, 0.0]), 0).tolist() == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize(("n_joints", "limit"), [(2, 2 * math.pi / 3), (5, math.pi / 3), (11, math.pi / 6)])
def test_limit_of_the_angles_follows_the_body(n_joints: int, limit: float) -> None:
    policy = CircuitPolicy(Circuit.swimmer(5)).for_body(n_joints)
    assert policy.joint_limit == pytest.approx(limit)
    assert CircuitPolicy(Circuit.swimmer(5), joint_limit=0.3).for_body(4).joint_limit == 0.3


def test_signs_are_imposed_at_use_and_gradients_stop_there() -> None:
    policy = with_weights(CircuitPolicy(Circuit.swimmer(3)), prop=0.4, osc=0.5, ipsi=-0.2, contra=0.3)
    assert policy.named_weights() == pytest.approx({"prop": 0.4, "osc": 0.5, "ipsi": 0.0, "contra": 0.0})
    assert sorted(policy.weights.tolist()) == pytest.approx([-0.2, 0.3, 0.4, 0.5])  # the parameters stay as they were
    assert policy(torch.ones(3), 0).tolist() == [0.0, 0.0, 0.0]
    policy(torch.ones(3), 0).sum().backward()
    assert policy.weights.grad.tolist() == [0.0] * 4
    free = with_weights(CircuitPolicy(Circuit.swimmer(3), sign=False), prop=0.4, osc=0.5, ipsi=0.7, contra=0.3)
    assert free.named_weights()["contra"] == pytest.approx(0.3)


def test_saturated_neurons_pass_no_gradient() -> None:
    policy = CircuitPolicy(Circuit.swimmer(2))
    policy(torch.zeros(2), 0)[0].backward()  # b = sigma(1), m = sigma(1): at the edge, where clamp still passes
    policy.weights.grad = None
    with_weights(policy, prop=1.0, osc=1.5, ipsi=1.5, contra=-1.0)(torch.zeros(2), 0)[0].backward()
    assert policy.weights.grad.tolist() == [0.0] * 4


def test_first_weights() -> None:
    constant = CircuitPolicy(Circuit.swimmer(5)).named_weights()
    assert constant == {"osc": 1.0, "ipsi": 1.0, "contra": -1.0, "prop": 1.0}
    for seed in range(3):
        uniform = CircuitPolicy(Circuit.swimmer(5, sharing=False), init="uniform", generator=torch_stream(seed, "w"))
        values = np.array(list(uniform.named_weights().values()))
        signs = np.array([sign for _, sign in uniform.circuit.weights])
        assert len(values) == 30
        assert ((values * signs > 0) & (np.abs(values) < 1)).all()
    unsigned = CircuitPolicy(Circuit.swimmer(40, sharing=False), sign=False, generator=torch_stream(0, "w")).weights
    assert set(unsigned.tolist()) == {-1.0, 1.0}
    assert 0.35 < float((unsigned > 0).double().mean()) < 0.65


def test_ablations_remove_what_they_name() -> None:
    full = {name for name, _ in Circuit.swimmer(5).weights}
    for option, kind in (("oscillator", "osc"), ("proprioception", "prop")):
        assert {name for name, _ in Circuit.swimmer(5, **{option: False}).weights} == full - {kind}
    assert not {"osc_d", "osc_v"} & set(Circuit.swimmer(5, oscillator=False).inputs)
    paper, permuted = Circuit.swimmer(5), Circuit.swimmer(5, wiring="permuted")
    assert len(paper.synapses) == len(permuted.synapses)
    assert paper.weights == permuted.weights
    prop = [name for name, _ in paper.weights].index("prop")
    felt = [{(s, t) for s, t, w in circuit.synapses if w == prop} for circuit in (paper, permuted)]
    assert not felt[0] & felt[1]  # nobody feels the joint it should
    assert {s for s, _ in felt[0]} == {s for s, _ in felt[1]}


def test_mirrored_bends_give_mirrored_torques() -> None:
    policy = with_weights(CircuitPolicy(Circuit.swimmer(6, 20)), **WEIGHTS)
    q = torch.as_tensor(np.random.default_rng(0).standard_normal((9, 6)))
    torch.testing.assert_close(policy(-q, 13), -policy(q, 3))  # half a period later on the other side


def test_circuit_from_adjacency_is_the_swimmers() -> None:
    swimmer = Circuit.swimmer(3, 20)
    n = swimmer.n_neurons
    A, signs, groups = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n), dtype=int)
    for source, target, weight in swimmer.synapses:
        A[source, target], signs[source, target], groups[source, target] = 1, swimmer.weights[weight][1], weight
    built = Circuit.from_adjacency(A, signs, groups, inputs=swimmer.inputs, n_joints=3, period=20)
    q = torch.as_tensor(np.random.default_rng(0).standard_normal((9, 3)))
    torch.testing.assert_close(CircuitPolicy(built)(q, 7), CircuitPolicy(swimmer)(q, 7))
    assert len(CircuitPolicy(Circuit.from_adjacency(A, signs, inputs=swimmer.inputs, n_joints=3)).weights) == len(
        A[A > 0]
    )
    by_neuron = Circuit.from_adjacency(A, np.ones(n), inputs=swimmer.inputs, n_joints=3)  # Dale: a sign a neuron
    assert all(sign == 1 for _, sign in by_neuron.weights)


def test_circuit_of_one_own_needs_no_order_of_its_neurons() -> None:
    """d1 -> 9 -> 8 -> muscle d1: numbered against the flow."""
    inputs = ("d1", "d2", "v1", "v2")
    A = np.zeros((10, 10))
    A[0, 5], A[5, 4], A[4, 6] = 1, 1, 1
    circuit = Circuit.from_adjacency(A, np.ones(10), inputs=inputs, n_joints=2)
    assert circuit.levels() == [[5, 7, 8, 9], [4], [6]]
    policy = CircuitPolicy(circuit)
    assert policy(torch.tensor([1.0, 0.0]), 0).tolist() == pytest.approx([3 / (2 * math.pi), 0.0])
    assert policy.act()(np.array([1.0, 0.0]), 0).tolist() == pytest.approx([3 / (2 * math.pi), 0.0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"A": np.ones((10, 9))}, "square"),
        ({"signs": np.ones(3)}, "one a neuron"),
        ({"signs": np.full(10, 2)}, "must be 1, -1 or 0"),
        ({"groups": np.ones(3)}, "groups must have shape"),
        ({"inputs": ("d1", "nose")}, "inputs must be one of"),
        ({"n_joints": 1}, "n_joints"),
        ({"period": 7}, "even"),
    ],
)
def test_bad_circuits_are_refused(change: dict, words: str) -> None:
    A = np.zeros((10, 10))
    A[0, 6] = 1
    given = {"A": A, "signs": np.ones(10), "inputs": ("d1", "d2", "v1", "v2"), "n_joints": 2, **change}
    with pytest.raises(ConfigError, match=words):
        Circuit.from_adjacency(given.pop("A"), given.pop("signs"), given.pop("groups", None), **given)


def test_cycles_and_groups_of_two_signs_are_refused() -> None:
    A = np.zeros((10, 10))
    A[4, 5] = A[5, 4] = 1
    with pytest.raises(ConfigError, match="cycle"):
        Circuit.from_adjacency(A, np.ones(10), inputs=("d1", "d2", "v1", "v2"), n_joints=2)
    A[5, 4], A[0, 4], signs = 0, 1, np.ones((10, 10))
    signs[0, 4] = -1
    with pytest.raises(ConfigError, match="different signs"):
        Circuit.from_adjacency(A, signs, np.zeros((10, 10)), inputs=("d1", "d2", "v1", "v2"), n_joints=2)
    with pytest.raises(ConfigError, match="the end of a synapse"):
        Circuit(2, ("d1",), 5, ((1, 0, 0),), (("w", 1),))


def test_only_shared_weights_fit_other_bodies() -> None:
    for circuit in (Circuit.swimmer(3, sharing=False), Circuit(2, (), 4, (), ())):
        with pytest.raises(CapabilityError, match="share their weights"):
            CircuitPolicy(circuit).for_body(4)


@pytest.mark.parametrize("t", [None, -1, 0.5, float("nan")])
@pytest.mark.parametrize(
    "policy", [CircuitPolicy(Circuit.swimmer(3)), PlainNetwork().policy(3, 3, generator=torch_stream(0, "net"))]
)
def test_missing_or_impossible_steps_are_refused(policy: torch.nn.Module, t: float | None) -> None:
    with pytest.raises(InputError, match="step"):
        policy(torch.zeros(3), t)


def test_replay_in_any_order_depends_on_the_step_alone() -> None:
    policy = CircuitPolicy(Circuit.swimmer(5, 20))
    obs, steps = torch.randn(30, 5, generator=torch_stream(0, "obs")), torch.arange(30)
    order = torch.randperm(30, generator=torch_stream(0, "order"))
    torch.testing.assert_close(policy(obs[order], steps[order]), policy(obs, steps)[order], rtol=0, atol=0)
    act = policy.act()
    first = act(obs[0].numpy(), 25)
    act(obs[1].numpy(), 3)
    assert (act(obs[0].numpy(), 25) == first).all()  # nothing is counted inside


def test_network_reads_standardised_observations_and_the_clock() -> None:
    policy = PlainNetwork((8,)).policy(4, 2, generator=torch_stream(0, "net"))
    obs = torch.randn(6, 4, generator=torch_stream(0, "obs"), dtype=torch.float64)
    raw = policy(obs, 100)
    assert not torch.equal(raw, policy(obs, 500))
    policy.standardise(np.full(4, 2.0), np.array([1.0, 3.0, 0.0, 1.0]))
    scale = torch.tensor([1.0, 3.0, 1e-6, 1.0], dtype=torch.float64)
    torch.testing.assert_close(policy(2 + scale * obs, 100), raw, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(policy.act()(obs[0].numpy(), 7), policy(obs[0], 7).detach(), atol=1e-12)


def test_prior_draws_a_wave_that_runs_to_the_tail_and_its_control_arm_none() -> None:
    drawn = CircuitPrior().sample(1, generator=torch_stream(0, "draw")).value[0, 120:].numpy()
    delays = [int(np.argmax([(drawn[lag:, joint] * drawn[: len(drawn) - lag, joint - 1]).mean() for lag in range(30)]))
              for joint in range(1, 5)]  # fmt: skip
    assert all(0 < delay < 30 for delay in delays)
    off = CircuitPrior().off().sample(1, generator=torch_stream(0, "draw")).value[0, 120:].numpy()
    assert np.abs(np.diff(off, axis=0)).max() < 0.2 * np.abs(np.diff(drawn, axis=0)).max()


def test_picture_of_draws_has_a_place_for_each() -> None:
    picture = CircuitPrior().picture(5, generator=torch_stream(0, "picture"))
    assert [len(row) for row in picture.images] == [3, 3]
    assert picture.images[1][2] is None
    assert np.shape(picture.images[0][0]) == (120, 241)  # 24 rows a joint


def test_bad_priors_and_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="circuit must be"):
        CircuitPrior(circuit="swimmer")
    with pytest.raises(ConfigError, match="init"):
        CircuitPrior(init="zeros")
    with pytest.raises(ConfigError, match="hidden"):
        PlainNetwork(hidden=[64])
    with pytest.raises(ConfigError, match="even"):
        CircuitController(population=3, method="none", n_links=3).fit(None)
    with pytest.raises(ConfigError, match="3 joints, the body 2"):
        CircuitController(CircuitPrior(circuit=Circuit.swimmer(3)), n_links=3, method="none").fit(None)
    with pytest.raises(ConfigError, match="2 column numbers"):
        CircuitController(joint_columns=(0, 1, 2), n_links=3, method="none").fit(None)


def test_too_few_observations_are_refused() -> None:
    policy = CircuitPolicy(Circuit.swimmer(3, n_turn=1), target_columns=(3, 4))
    assert policy(torch.zeros(5), 0).shape == (3,)
    for ask in (lambda: policy(torch.zeros(2, 4), 0), lambda: policy.act()(np.zeros(4), 0)):
        with pytest.raises(InputError, match="column 4"):
            ask()
