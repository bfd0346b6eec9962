"""Networks of neural processes against slow plain versions, and their invariances."""

import math

import pytest
import torch
from torch import nn

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.core.batch import Batch
from foreknow.tasks import GPTasks, MartingaleNetwork, MartingalePrior, NPSettings
from foreknow.tasks.martingale_np.network import MAB, BootstrapNP, ConditionalNP, LatentNP, Normals, Rows, make_network
from foreknow.tasks.martingale_np.tasks import RULES
from foreknow.tasks.martingale_np.training import Batches, build_network

SIZES = {"width": 16, "encoder_depth": 2, "decoder_depth": 2, "n_heads": 2, "n_pseudo": 5, "n_samples": 3}


def settings(**changes) -> NPSettings:
    return NPSettings(**{**SIZES, "batch_size": 4, "n_steps": 5, **changes})


def network(rule="martingale", **changes) -> ConditionalNP:
    with seeded_init(1):
        return make_network(rule, 1, settings(**changes)).eval()


def batch(n=6, m=4, tasks=3) -> Batch:
    return GPTasks().sample(tasks, n_context=n, n_query=m, generator=torch_stream(0, "tests"))


def noise_of(net, task: Batch, k=3):
    return net.noise(task.n_tasks, task.n_context, k, torch_stream(1, "tests"))


ALL = [(rule, attentive) for rule in RULES for attentive in (False, True)]


@pytest.mark.parametrize(("rule", "attentive"), ALL)
def test_every_rule_predicts_and_learns(rule, attentive):
    net, task = network(rule, attentive=attentive), batch()
    noise = noise_of(net, task)
    found = net(task.context_x, task.context_y, task.query_x, noise)
    assert found.mean.shape == found.sd.shape == (3, 1 if rule == "none" else 3, 4)
    assert (found.sd >= 0.1).all()
    loss = net.loss(task, noise)
    loss.backward()
    assert loss.isfinite()
    wanting = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not wanting


@pytest.mark.parametrize(("rule", "attentive"), ALL)
def test_an_empty_context_is_allowed(rule, attentive):
    net, task = network(rule, attentive=attentive), batch(n=0)
    noise = noise_of(net, task)
    found = net(task.context_x, task.context_y, task.query_x, noise)
    assert found.mean.isfinite().all() and found.sd.isfinite().all()
    assert net.loss(task, noise).isfinite()
    if rule == "martingale":  # functions differ although nothing is known
        assert found.mean.std(dim=1).min() > 0


@pytest.mark.parametrize("attentive", [False, True])
@pytest.mark.parametrize("rule", ["martingale", "none", "latent"])
def test_the_order_of_the_context_does_not_matter(rule, attentive):
    net, task = network(rule, attentive=attentive), batch()
    noise = noise_of(net, task)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    one = net(task.context_x, task.context_y, task.query_x, noise)
    other = net(task.context_x[:, order], task.context_y[:, order], task.query_x, noise)
    torch.testing.assert_close(one.mean, other.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.sd, other.sd, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attentive", [False, True])
def test_pseudo_rows_are_exchangeable_given_the_noise(attentive):
    """Permuting the noise vectors permutes the pseudo rows alike, and changes no prediction."""
    net, task = network(attentive=attentive), batch()
    noise = noise_of(net, task)
    order = torch.tensor([4, 2, 0, 1, 3])
    rows = net.encode(task.context_x, task.context_y)
    one, other = net.pseudo(rows, noise), net.pseudo(rows, noise[:, :, order])
    torch.testing.assert_close(one.values[:, order], other.values, atol=1e-5, rtol=0)
    if attentive:
        torch.testing.assert_close(one.keys[:, order], other.keys, atol=1e-5, rtol=0)
    first = net(task.context_x, task.context_y, task.query_x, noise)
    second = net(task.context_x, task.context_y, task.query_x, noise[:, :, order])
    torch.testing.assert_close(first.mean, second.mean, atol=1e-5, rtol=0)


def test_queries_do_not_see_each_other():
    net, task = network(attentive=True), batch()
    noise = noise_of(net, task)
    whole = net(task.context_x, task.context_y, task.query_x, noise)
    alone = net(task.context_x, task.context_y, task.query_x[:, 2:3], noise)
    torch.testing.assert_close(whole.mean[..., 2:3], alone.mean, atol=1e-5, rtol=0)


def test_the_attention_block_is_the_formula():
    """MAB(Q, V) = LN(O + relu(Lin O)), O = LN(Q + MHA(Q, V, V)), one head at a time."""
    with seeded_init(0):
        block = MAB(8, 2)
    q, v = (torch.randn(1, n, 8, generator=torch_stream(n, "mab")) for n in (3, 5))
    attention = block.attention
    queries, keys, values = attention.query(q)[0], attention.key(v)[0], attention.value(v)[0]
    gathered = torch.zeros(3, 8)
    for i in range(3):
        for head in (slice(0, 4), slice(4, 8)):
            logits = torch.stack([queries[i, head] @ keys[j, head] / math.sqrt(4) for j in range(5)])
            gathered[i, head] = sum(w * values[j, head] for j, w in enumerate(logits.softmax(0)))
    hidden = block.norm_attention(q[0] + attention.out(gathered))
    expected = block.norm_out(hidden + torch.relu(block.linear(hidden)))
    torch.testing.assert_close(block(q, v)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attentive", [False, True])
def test_the_three_terms_are_the_formulas(attentive):
    """Against one task and one draw at a time."""
    net, task = network(attentive=attentive), batch()
    noise = noise_of(net, task)
    k, n = 3, 10
    terms = net.terms(task, noise)
    marginal = amortised = pseudo = 0.0
    with torch.inference_mode():
        for t in range(3):
            one = slice(t, t + 1)
            x_c, y_c = task.context_x[one], task.context_y[one]
            x = torch.cat([x_c, task.query_x[one]], dim=1)
            y = torch.cat([y_c, task.query_y[one]], dim=1)[0]
            rows = net.encode(x_c, y_c)
            joint = []
            for draw in range(k):
                made = net.pseudo(rows, noise[one, draw : draw + 1])
                both = net.predict(rows.with_rows(made), x)
                joint.append(sum(density(both, y, i) for i in range(n)))
                alone = net.predict(made, x)
                pseudo += sum(density(alone, y, i) for i in range(n)) / k
            marginal += math.log(sum(math.exp(value - max(joint)) for value in joint) / k) + max(joint)
            amortised += sum(density(net.predict(rows, x), y, i) for i in range(n))
    for name, value in (("marginal", marginal), ("amortised", amortised), ("pseudo", pseudo)):
        assert float(terms[name].detach()) == pytest.approx(value / 3 / n, abs=1e-4)
    weighted = network(weight_pseudo=0.1, attentive=attentive)
    assert float(weighted.loss(task, noise).detach()) == pytest.approx(
        -(marginal + amortised + 0.1 * pseudo) / 3 / n, abs=1e-4
    )


def density(normals: Normals, y, i) -> float:
    return float(torch.distributions.Normal(normals.mean[0, 0, i], normals.sd[0, 0, i]).log_prob(y[i]))


def test_joint_and_marginal_likelihood_agree_for_one_row_only():
    mean, sd = torch.tensor([[[0.0, 1.0], [2.0, -1.0]]]), torch.full((1, 2, 2), 0.5)
    normals, y = Normals(mean, sd), torch.tensor([[0.2, 0.9]])
    one = Normals(mean[..., :1], sd[..., :1])
    assert float(one.joint(y[:, :1])) == pytest.approx(float(one.marginal(y[:, :1])))
    assert float(normals.joint(y)) != pytest.approx(float(normals.marginal(y).sum()))
    each = [sum(density(Normals(mean[:, k : k + 1], sd[:, k : k + 1]), y[0], i) for i in range(2)) for k in range(2)]
    assert float(normals.joint(y)) == pytest.approx(math.log((math.exp(each[0]) + math.exp(each[1])) / 2))


def test_the_smallest_deviation_caps_the_likelihood():
    net = network("none")
    with torch.no_grad():
        net.decoder[-1].bias[1] = -100.0
        found = net(*(getattr(batch(), name) for name in ("context_x", "context_y", "query_x")))
    assert float(found.sd.min()) == pytest.approx(0.1, abs=1e-6)
    assert float(found.log_prob(found.mean[:, 0]).max()) == pytest.approx(1.3836, abs=1e-3)


def test_without_pseudo_rows_the_network_is_a_conditional_one():
    """K = 0: the control arm has the same parameters, and never calls the generator."""
    on, off, task = network("martingale"), network("none"), batch()
    assert sum(p.numel() for p in on.parameters()) == sum(p.numel() for p in off.parameters())
    assert off.noise(3, 6, 4, torch_stream(0, "x")) is None and on.noise(3, 6, 4, torch_stream(0, "x"), 0) is None
    off.load_state_dict(on.state_dict())
    one = on(task.context_x, task.context_y, task.query_x)
    other = off(task.context_x, task.context_y, task.query_x)
    assert torch.equal(one.mean, other.mean)
    assert not any(p.requires_grad for p in off.generator.parameters())


def test_the_placebo_reads_another_task():
    net, task = network("shuffled"), batch()
    noise = noise_of(net, task)
    own = network("martingale").terms(task, noise)
    other = net.terms(task, noise)
    assert torch.equal(own["amortised"], other["amortised"])
    assert not torch.equal(own["pseudo"], other["pseudo"])
    donor = task.context_x.roll(1, 0), task.context_y.roll(1, 0)
    rows = net.thetas(task.context_x, task.context_y, noise, donor)
    expected = Rows(net.encode(task.context_x, task.context_y).values.roll(1, 0))
    torch.testing.assert_close(rows.values[:, 6:], net.pseudo(expected, noise).values)


@pytest.mark.parametrize("attentive", [False, True])
def test_resampling_every_row_once_and_equal_weights_change_nothing(attentive):
    task = batch()
    once = ((torch.arange(6) + 0.5) / 6).expand(3, 2, 2, 6)
    for rule in ("resampled", "dirichlet"):
        net = network(rule, attentive=attentive)
        plain = net(task.context_x, task.context_y, task.query_x)
        noise = once if rule == "resampled" else torch.full((3, 2, 2, 6), 0.3)
        found = net(task.context_x, task.context_y, task.query_x, noise)
        torch.testing.assert_close(found.mean, plain.mean.expand(-1, 2, -1), atol=1e-5, rtol=0)


def test_heavier_rows_count_more():
    net, task = network("dirichlet"), batch(n=2)
    noise = torch.full((3, 1, 2, 2), 0.5)
    noise[..., 1] = 1 - 1e-7  # nearly all weight on the second row
    found = net(task.context_x, task.context_y, task.query_x, noise)
    rows = net.encode(task.context_x, task.context_y)
    weights = -(1 - noise[0, 0, 0]).log()
    mean = (rows.values * (weights / weights.sum())[None, :, None]).sum(1, keepdim=True)
    torch.testing.assert_close(found.mean, net.predict(Rows(mean), task.query_x).mean, atol=1e-4, rtol=0)


def test_the_residual_bootstrap_enters_through_its_own_layer():
    net, task = network("residual"), batch()
    noise = noise_of(net, task)
    plain = net(task.context_x, task.context_y, task.query_x)
    assert not torch.equal(net(task.context_x, task.context_y, task.query_x, noise).mean[:, :1], plain.mean)
    nn.init.zeros_(net.from_bootstrap.weight)
    found = net(task.context_x, task.context_y, task.query_x, noise)
    torch.testing.assert_close(found.mean, plain.mean.expand(-1, 3, -1))


def test_the_divergence_of_a_latent_variable_from_itself_is_zero():
    net, task = network("latent"), batch()
    twice = Batch(task.context_x, task.context_y, task.context_x, task.context_y)
    terms = net.terms(twice, noise_of(net, task))
    assert float(terms["divergence"].detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(net.terms(task, noise_of(net, task))["divergence"].detach()) < 0


@pytest.mark.parametrize("attentive", [False, True])
def test_pseudo_rows_may_be_data(attentive):
    net, task = network(space="data", attentive=attentive), batch()
    noise = noise_of(net, task)
    net.loss(task, noise).backward()
    assert net.to_data.weight.grad.abs().sum() > 0
    assert net(task.context_x, task.context_y, task.query_x, noise).mean.std(dim=1).max() > 0


def test_the_pseudo_term_alone_teaches_the_generator():
    net, task = network(), batch()
    net.terms(task, noise_of(net, task))["pseudo"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.generator.parameters())
    assert sum(float(p.grad.abs().sum()) for p in net.generator.parameters()) > 0


def test_steps_depend_on_their_number_only():
    net = build_network(MartingalePrior(), settings(), rule="martingale", seed=3)
    batches = Batches(MartingalePrior(), net, 3, "cpu")
    one, other = batches(7), batches(7)
    assert torch.equal(one.query_y, other.query_y) and torch.equal(one.info["noise"], other.info["noise"])
    sizes = {(b.n_context, b.n_query) for b in map(batches, range(40))}
    assert all(3 <= n <= 47 and m >= 3 and n + m <= 50 for n, m in sizes) and len(sizes) > 20
    assert float(net.x_low) == pytest.approx(-2, abs=0.1) and 0.3 < float(net.y_scale) < 0.9


def test_published_sizes_build_and_take_a_step():
    for attentive in (False, True):
        with seeded_init(0):
            net = MartingaleNetwork(1, NPSettings(attentive=attentive))
        task = batch(n=3, m=3, tasks=2)
        loss = net.loss(task, net.noise(2, 3, 2, torch_stream(0, "x")))
        loss.backward()
        torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=5e-4).step()
        assert float(net.loss(task, net.noise(2, 3, 2, torch_stream(0, "x"))).detach()) < float(loss.detach())


@pytest.mark.parametrize(
    "bad",
    [
        {"width": 15},
        {"n_pseudo": 0},
        {"space": "elsewhere"},
        {"weight_marginal": 0.0, "weight_amortised": 0.0},
        {"weight_pseudo": -1.0},
        {"min_sd": 0.0},
        {"n_points": 5},
    ],
)
def test_bad_sizes_are_refused(bad):
    with pytest.raises(ConfigError):
        settings(**bad)


def test_rows_survive_storage():
    inner = Rows(torch.ones(2, 3, 4))
    rows = Rows(torch.zeros(2, 3, 4), extra=torch.ones(2, 1, 4), beside=inner)
    again = Rows.from_tensors(rows.tensors())
    assert torch.equal(again.extra, rows.extra) and torch.equal(again.beside.values, inner.values)


def test_classes_know_their_rule():
    assert isinstance(network("latent"), LatentNP) and isinstance(network("residual"), BootstrapNP)
    with seeded_init(0), pytest.raises(ConfigError):
        BootstrapNP(1, settings(), "latent")
