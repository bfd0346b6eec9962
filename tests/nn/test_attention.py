from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.nn import (
    ContextBlock,
    ContextCache,
    InducedAttention,
    MultiheadAttention,
    PoolingAttention,
    SetTransformer,
)
from foreknow.nn.attention import RMSNorm

WIDTH = 12


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, name), dtype=torch.float64)


def awake(module: nn.Module) -> nn.Module:
    """The module in float64 with no weight at its zero start, so that every branch matters."""
    generator = torch_stream(1, "weights")
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module.eval()


def transformer(**named: object) -> SetTransformer:
    net = awake(SetTransformer(WIDTH, 3, 3, **named))  # type: ignore[arg-type]
    assert isinstance(net, SetTransformer)
    return net


VARIANTS = [
    {"norm": "pre"},
    {"norm": "post"},
    {"norm": "pre", "log_n_scaling": "log"},
    {"norm": "post", "log_n_scaling": "mlp"},
]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return bool((a - b).abs().max() <= tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
@seeded_init(0)
def test_a_query_does_not_see_the_other_queries(variant: dict[str, str]) -> None:
    net, context, query = transformer(**variant), randn(2, 7, WIDTH), randn(2, 5, WIDTH, name="q")
    whole = net(context, query)
    assert close(net(context, query[:, 1:3]), whole[:, 1:3])
    order = torch.tensor([4, 0, 3, 1, 2])
    assert close(net(context, query[:, order]), whole[:, order])
    assert not close(net(context + 0.1 * randn(2, 7, WIDTH, name="d"), query), whole, 1e-3)  # it does see the context


@pytest.mark.parametrize("variant", VARIANTS)
@seeded_init(0)
def test_order_of_the_context_does_not_matter(variant: dict[str, str]) -> None:
    net, context, query = transformer(**variant), randn(2, 7, WIDTH), randn(2, 5, WIDTH, name="q")
    assert close(net(context[:, torch.randperm(7, generator=torch_stream(2))], query), net(context, query))


@seeded_init(0)
def test_invariances_hold_in_float32() -> None:
    net = transformer().float()
    context, query = randn(2, 40, WIDTH).float(), randn(2, 9, WIDTH, name="q").float()
    whole = net(context, query)
    assert close(net(context, query[:, 4:5]), whole[:, 4:5], 1e-5)
    assert close(net(context.flip(1), query), whole, 1e-5)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(0, 6), m=st.integers(1, 6), chunk=st.integers(1, 7), variant=st.sampled_from(VARIANTS))
@seeded_init(0)
def test_cached_and_chunked_equal_plain(n: int, m: int, chunk: int, variant: dict[str, str]) -> None:
    net, context, query = transformer(**variant), randn(2, n, WIDTH), randn(2, m, WIDTH, name="q")
    plain = net(context, query)
    cache = net.encode_context(context)
    assert cache.n_context == n
    assert close(net.read(cache, query), plain, 1e-12)
    net.chunk_size = chunk
    assert close(net(context, query), plain, 1e-12)


@seeded_init(0)
def test_cache_survives_storage_and_moving() -> None:
    net, query = transformer(), randn(1, 3, WIDTH, name="q")
    cache = net.encode_context(randn(1, 4, WIDTH))
    again = ContextCache.from_tensors({name: tensor.clone() for name, tensor in cache.tensors().items()})
    assert close(net.read(again, query), net.read(cache, query), 0.0)
    assert cache.to(dtype=torch.float32).keys[2].dtype == torch.float32


@seeded_init(0)
def test_damaged_cache_is_refused() -> None:
    net = transformer()
    cache = net.encode_context(randn(1, 4, WIDTH))
    for tensors in (
        {},
        {"keys.0": cache.keys[0]},
        {"keys.0": cache.keys[0], "values.1": cache.values[0]},
        {"keys.0": cache.keys[0], "values.0": cache.values[0][:, :, 1:]},
    ):
        with pytest.raises(CheckpointError):
            ContextCache.from_tensors(tensors)
    with pytest.raises(ConfigError, match="layers"):
        net.read(ContextCache(cache.keys[:1], cache.values[:1]), randn(1, 2, WIDTH))


def slow_attention(attention: MultiheadAttention, tokens: Tensor, context: Tensor, scale: list[float]) -> Tensor:
    """Attention in plain Python loops over batch, rows, heads."""
    q, k, v = attention.query(tokens), attention.key(context), attention.value(context)
    size = WIDTH // attention.n_heads
    gathered = torch.zeros_like(tokens)
    for b in range(len(tokens)):
        for i in range(tokens.shape[1]):
            for h in range(attention.n_heads):
                part = slice(h * size, (h + 1) * size)
                scores = [
                    scale[h] * sum(float(q[b, i, part][c]) * float(k[b, j, part][c]) for c in range(size))
                    for j in range(context.shape[1])
                ]
                weights = [math.exp(score / math.sqrt(size)) for score in scores]
                for j, weight in enumerate(weights):
                    gathered[b, i, part] += weight / sum(weights) * v[b, j, part]
    return attention.out(gathered)


@pytest.mark.parametrize("scaling", ["none", "log", "mlp"])
@torch.no_grad()
@seeded_init(0)
def test_agrees_with_plain_loops(scaling: str) -> None:
    attention = awake(MultiheadAttention(WIDTH, 3, log_n_scaling=scaling))
    assert isinstance(attention, MultiheadAttention)
    tokens, context = randn(2, 3, WIDTH, name="q"), randn(2, 5, WIDTH)
    scale = [1.0] * 3
    if attention.log_n_scale is not None:
        scale = [1 + float(s) for s in attention.log_n_scale(torch.tensor([math.log(5)], dtype=torch.float64))]
        assert max(abs(s - 1) for s in scale) > 0.01
    expected = slow_attention(attention, tokens, context, scale)
    assert close(attention(tokens, attention.keys_values(context)), expected, 1e-10)


@torch.no_grad()
@seeded_init(0)
def test_post_norm_block_is_torchs_encoder_layer() -> None:
    block = awake(ContextBlock(WIDTH, 3, 20, norm="post"))
    assert isinstance(block, ContextBlock)
    theirs = nn.TransformerEncoderLayer(
        WIDTH, 3, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=False, dtype=torch.float64
    ).eval()
    attention = block.attention
    layers = (attention.query, attention.key, attention.value)
    theirs.self_attn.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
    theirs.self_attn.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
    pairs = [
        (theirs.self_attn.out_proj, attention.out),
        (theirs.linear1, block.mlp[0]),
        (theirs.linear2, block.mlp[2]),
        (theirs.norm1, block.attention_norm),
        (theirs.norm2, block.mlp_norm),
    ]
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    x = randn(2, 6, WIDTH)
    assert close(block(x, block.keys_values(x)), theirs(x), 1e-10)


@seeded_init(0)
def test_empty_context_gathers_nothing() -> None:
    net = transformer()
    query = randn(2, 3, WIDTH, name="q")
    out = net(randn(2, 0, WIDTH), query)
    assert out.isfinite().all()
    attention = net.blocks[0].attention
    nothing = attention(query, attention.keys_values(randn(2, 0, WIDTH)))
    assert close(nothing, attention.out.bias.expand_as(nothing), 0.0)
    out.sum().backward()  # every parameter stays in the graph, as training on several devices needs
    assert all(parameter.grad is not None for parameter in net.parameters())


@seeded_init(0)
def test_new_blocks_are_the_identity() -> None:
    x, other = randn(2, 4, WIDTH).float(), randn(2, 6, WIDTH, name="o").float()
    block = ContextBlock(WIDTH, 3)
    assert close(block(x, block.keys_values(other)), x, 0.0)
    assert close(InducedAttention(WIDTH, 3)(x, other), x, 0.0)
    for scaling in ("log", "mlp"):
        scaled = MultiheadAttention(WIDTH, 3, log_n_scaling=scaling)
        plain = MultiheadAttention(WIDTH, 3)
        plain.load_state_dict({k: v for k, v in scaled.state_dict().items() if "log_n" not in k})
        nn.init.eye_(scaled.out.weight)
        nn.init.eye_(plain.out.weight)
        assert close(scaled(x, scaled.keys_values(other)), plain(x, plain.keys_values(other)), 1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@seeded_init(0)
def test_gradients_reach_every_parameter_and_the_context(variant: dict[str, str]) -> None:
    net = transformer(**variant)
    context = randn(2, 5, WIDTH).requires_grad_()
    net(context, randn(2, 3, WIDTH, name="q")).pow(3).sum().backward()
    assert context.grad is not None and (context.grad.abs().sum(-1) > 0).all()
    for name, parameter in net.named_parameters():
        # a key's bias adds the same score to every row: only with log-n scaling could rounding show it
        expected_zero = name.endswith("key.bias")
        assert parameter.grad is not None
        assert expected_zero or parameter.grad.abs().sum() > 0, name


@seeded_init(0)
def test_dropout_acts_in_training_only() -> None:
    net = transformer(dropout=0.5)
    context, query = randn(1, 5, WIDTH), randn(1, 3, WIDTH, name="q")
    assert close(net(context, query), net(context, query), 0.0)
    net.train()
    with seeded_init(0):
        assert not close(net(context, query), net(context, query), 1e-3)


@seeded_init(0)
def test_induced_points_see_only_the_context() -> None:
    induced = awake(InducedAttention(WIDTH, 3, n_points=4))
    tokens, context = randn(2, 6, WIDTH), randn(2, 5, WIDTH, name="c")
    whole = induced(tokens, context)
    assert close(induced(tokens[:, 2:4], context.flip(1)), whole[:, 2:4])
    assert close(induced(tokens), induced(tokens, tokens), 0.0)
    assert not close(induced(tokens), whole, 1e-3)


@seeded_init(0)
def test_masked_keys_are_as_if_they_were_not_there() -> None:
    attention = awake(MultiheadAttention(WIDTH, 3))
    tokens, context = randn(2, 4, WIDTH), randn(2, 5, WIDTH, name="c")
    keys_values = attention.keys_values(context)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    out = attention(tokens, keys_values, mask)
    assert close(out[:1], attention(tokens[:1], attention.keys_values(context[:1, [0, 1, 3]])))
    assert close(out[1:], attention(tokens[1:], attention.keys_values(context[1:])))
    nothing = attention(tokens, keys_values, torch.zeros_like(mask))
    assert bool(nothing.isfinite().all())


@seeded_init(0)
def test_pooling_ignores_order_and_fixes_size() -> None:
    pooling = awake(PoolingAttention(WIDTH, 3, n_seeds=2))
    rows = randn(2, 6, WIDTH)
    out = pooling(rows)
    assert out.shape == (2, 2, WIDTH)
    assert close(pooling(rows.flip(1)), out)
    assert not close(pooling(rows[:, :4]), out, 1e-3)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MultiheadAttention(10, 3),
        lambda: MultiheadAttention(0, 1),
        lambda: MultiheadAttention(4, 2, dropout=1.5),
        lambda: MultiheadAttention(4, 2, log_n_scaling="yes"),
        lambda: ContextBlock(4, 2, norm="middle"),
        lambda: ContextBlock(4, 2, hidden=0),
        lambda: SetTransformer(4, 0, 2),
        lambda: SetTransformer(4, 1, 2, chunk_size=0),
        lambda: InducedAttention(4, 2, n_points=0),
        lambda: PoolingAttention(4, 2, n_seeds=0),
    ],
)
def test_bad_settings_are_refused(build: object) -> None:
    with pytest.raises(ConfigError):
        build()  # type: ignore[operator]


def test_root_mean_square_keeps_the_precision_of_its_weight_under_autocast():
    norm, x = RMSNorm(WIDTH), randn(3, WIDTH).float()
    assert torch.equal(norm(x), nn.RMSNorm(WIDTH)(x))
    with torch.autocast("cpu", torch.bfloat16):  # warnings are errors here
        found = norm(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, nn.RMSNorm(WIDTH)(x.bfloat16().float()))
