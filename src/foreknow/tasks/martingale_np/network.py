"""The networks: CNP, NP, BNP, MPNP and their attentive forms, as plain modules that share encoder and decoder.

Every one turns a context into `Rows`, one set for each of k draws of the function (theta_k), and reads these sets at
query inputs: `network.thetas(x_c, y_c, noise)` then `network.predict(rows, x)`. Randomness always comes in as `noise`.

    r_i = h(x_i, y_i)                             `encode` (attentive: self-attention, and keys from x)
    theta = mean of r, or cross-attention         `read`
    mu, sigma = .1 + .9 softplus(.)               `decode`
    H = MAB(r, E), Z' = MAB(E, H), E ~ N(0, I)    `PseudoGenerator`, E as many vectors as pseudo points
    MAB(Q, V) = LN(O + relu(Lin O)), O = LN(Q + MHA(Q, V, V))
    log 1/K sum_k prod_i p(y_i | x_i, theta(Z_c + Z'_k))     the term "marginal" of `MartingaleNetwork.terms`
    sum_i log p(y_i | x_i, theta(Z_c))                       "amortised"
    1/K sum_k sum_i log p(y_i | x_i, theta(Z'_k))            "pseudo"

Letters in the shape comments: b tasks, k draws, n context rows, m query rows, p pseudo rows, w width.

References: Lee et al. 2023 (MPNP); Garnelo et al. 2018 (CNP, NP); Kim et al. 2019 (ANP); Lee et al. 2020 (BNP).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.batch import Batch
from foreknow.core.records import record
from foreknow.nn.attention import MultiheadAttention

SPACES = ("representation", "data")


@record
@dataclass(frozen=True)
class NPSettings:
    """Sizes and schedule of one network.

    Args:
        width: of every layer and representation.
        encoder_depth: linear layers of the encoder, and of the attentive networks' map of inputs to keys.
        decoder_depth: hidden layers of the decoder.
        n_heads: attention heads; must divide `width`.
        attentive: cross-attention instead of a mean.
        n_pseudo: pseudo points, N'.
        n_samples: draws in training, K.
        space: what the generator makes: "representation" (published) or "data" (inputs and targets, encoded again).
        weight_marginal, weight_amortised, weight_pseudo: of the three terms of the loss.
        min_sd: smallest standard deviation of a target, in the network's units. It caps the log-likelihood at
            -ln(min_sd sqrt(2 pi)) a point.
        n_points: most rows of a training task, context and query.
        min_context, min_query: fewest of each in training.
        batch_size: tasks a step.
        n_steps: optimiser steps.
        lr: peak learning rate.
        optimizer: "adam" (published), "adamw" or "muon".
        warmup: share of the steps in which the rate rises.
    """

    width: int = 128
    encoder_depth: int = 5
    decoder_depth: int = 3
    n_heads: int = 8
    attentive: bool = False
    n_pseudo: int = 20
    n_samples: int = 10
    space: str = "representation"
    weight_marginal: float = 1.0
    weight_amortised: float = 1.0
    weight_pseudo: float = 1.0
    min_sd: float = 0.1
    n_points: int = 50
    min_context: int = 3
    min_query: int = 3
    batch_size: int = 256
    n_steps: int = 100_000
    lr: float = 5e-4
    optimizer: str = "adam"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        owner = "NPSettings"
        for name in (
            "width", "encoder_depth", "decoder_depth", "n_heads", "n_pseudo", "n_samples", "min_query", "batch_size",
            "n_steps",
        ):  # fmt: skip
            check_int(owner, name, getattr(self, name), low=1)
        check_int(owner, "min_context", self.min_context, low=0)
        check_int(owner, "n_points", self.n_points, low=self.min_context + self.min_query)
        check_bool(owner, "attentive", self.attentive)
        check_option(owner, "space", self.space, SPACES)
        for name in ("weight_marginal", "weight_amortised", "weight_pseudo"):
            check_real(owner, name, getattr(self, name), low=0.0)
        if self.weight_marginal + self.weight_amortised <= 0:
            raise ConfigError(f"{owner}: weight_marginal and weight_amortised cannot both be 0.")
        check_real(owner, "min_sd", self.min_sd, low=0.0, open_low=True)
        check_real(owner, "lr", self.lr, low=0.0, open_low=True)
        check_real(owner, "warmup", self.warmup, low=0.0, high=1.0)
        if self.width % self.n_heads:
            raise ConfigError(f"{owner}: n_heads must divide width, got {self.n_heads} and {self.width}.")


@dataclass(frozen=True)
class Rows:
    """A set of encoded rows for each of k draws, the draws of a task one after the other along the first axis.

    Args:
        values: shape (b k, n, w); n may be 0.
        keys: the same for attention, else None.
        log_weights: of the rows, shape (b k, n), or None where all count alike.
        extra: what the decoder reads besides, shape (b k, 1, w): a latent variable.
        beside: further rows whose summary is added through a layer of its own: a bootstrap.
    """

    values: Float[Tensor, "bk n w"]
    keys: Float[Tensor, "bk n w"] | None = None
    log_weights: Float[Tensor, "bk n"] | None = None
    extra: Float[Tensor, "bk 1 w"] | None = None
    beside: Rows | None = None

    def repeated(self, k: int) -> Rows:
        """Each task's rows k times, which copies nothing until they are changed."""
        keys = None if self.keys is None else self.keys.repeat_interleave(k, dim=0)
        return Rows(self.values.repeat_interleave(k, dim=0), keys)

    def with_rows(self, other: Rows) -> Rows:
        """These rows and those of `other`."""
        keys = None if self.keys is None or other.keys is None else torch.cat([self.keys, other.keys], dim=1)
        return Rows(torch.cat([self.values, other.values], dim=1), keys)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for storage."""
        own = {name: getattr(self, name) for name in ("values", "keys", "log_weights", "extra")}
        found = {name: value for name, value in own.items() if value is not None}
        return found | ({f"beside.{k}": v for k, v in self.beside.tensors().items()} if self.beside else {})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Rows:
        """The inverse of `tensors`."""
        inner = {k.removeprefix("beside."): v for k, v in tensors.items() if k.startswith("beside.")}
        own = {k: v for k, v in tensors.items() if not k.startswith("beside.")}
        return cls(**own, beside=cls.from_tensors(inner) if inner else None)


class CrossAttention(MultiheadAttention):
    """Attention whose keys and values are different tokens, with a bias on the logits of every key."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__(width, n_heads)
        self.out.reset_parameters()  # no residual branch goes around it, so it must not start at zero

    def gather(self, queries: Tensor, keys: Tensor, values: Tensor, log_weights: Tensor | None = None) -> Tensor:
        """What queries (b, m, w) gather from keys and values (b, n, w); `log_weights` (b, n) are added to logits."""
        q, k, v = self._split(self.query(queries)), self._split(self.key(keys)), self._split(self.value(values))
        if k.shape[-2] == 0:
            gathered = (q @ k.mT) @ v
        else:
            mask = None if log_weights is None else log_weights[:, None, None, :]
            gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return out


class MAB(nn.Module):
    """MAB(Q, V) = LN(O + relu(Lin O)), O = LN(Q + MHA(Q, V, V)) (Lee et al. 2019)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(width, n_heads)
        self.linear = nn.Linear(width, width)
        self.norm_attention, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, queries: Float[Tensor, "b m w"], values: Float[Tensor, "b n w"]) -> Float[Tensor, "b m w"]:
        """The queries after reading the values."""
        hidden = self.norm_attention(queries + self.attention.gather(queries, values, values))
        out: Tensor = self.norm_out(hidden + F.relu(self.linear(hidden)))
        return out


class PseudoGenerator(nn.Module):
    """Exchangeable pseudo rows from context rows and noise: permuting the noise vectors permutes the rows alike.

    Args:
        width: of a row.
        n_heads: of both attention blocks.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.induce, self.spread = MAB(width, n_heads), MAB(width, n_heads)

    def forward(self, context: Float[Tensor, "b n w"], noise: Float[Tensor, "b p w"]) -> Float[Tensor, "b p w"]:
        """Pseudo rows; an empty context counts as one row of zeros."""
        if context.shape[1] == 0:
            context = context.new_zeros(len(context), 1, context.shape[2])
        out: Tensor = self.spread(noise, self.induce(context, noise))
        return out


@dataclass(frozen=True)
class Normals:
    """Predictions of k draws at m rows: means and standard deviations, shape (b, k, m)."""

    mean: Float[Tensor, "b k m"]
    sd: Float[Tensor, "b k m"]

    def log_prob(self, y: Float[Tensor, "b m"]) -> Float[Tensor, "b k m"]:
        """Log density of targets under every draw, in nats."""
        z = (y[:, None] - self.mean) / self.sd
        return -0.5 * z.square() - self.sd.log() - 0.5 * math.log(2 * math.pi)

    def joint(self, y: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
        """Log density of all targets of a task together: log-mean-exp over draws of the sum over rows."""
        total = self.log_prob(y).sum(dim=-1)
        return torch.logsumexp(total, dim=1) - math.log(total.shape[1])

    def marginal(self, y: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """Log density of every target by itself: log-mean-exp over draws before any sum. The easier number."""
        each = self.log_prob(y)
        return torch.logsumexp(each, dim=1) - math.log(each.shape[1])


class ConditionalNP(nn.Module):
    """CNP, or CANP if `settings.attentive`: one deterministic function of the context, and the base of all others.

    Args:
        n_features: columns of x.
        settings: sizes.

    Cost: O(n + m) in n context and m query rows; attentive O(n (n + m)).
    """

    rule: ClassVar[str] = "none"
    x_low: Tensor
    x_high: Tensor
    y_shift: Tensor
    y_scale: Tensor

    def __init__(self, n_features: int, settings: NPSettings) -> None:
        super().__init__()
        self.n_features = check_int(type(self).__name__, "n_features", n_features, low=1)
        self.settings = settings
        width = settings.width
        self.encoder = mlp(n_features + 1, width, settings.encoder_depth)
        if settings.attentive:
            self.to_keys = mlp(n_features, width, settings.encoder_depth)
            self.self_attention = MAB(width, settings.n_heads)
            self.cross_attention = CrossAttention(width, settings.n_heads)
        self.from_x = nn.Linear(n_features, width)
        self.from_r = nn.Linear(width, width, bias=False)
        self.decoder = nn.Sequential(
            *(layer for _ in range(settings.decoder_depth - 1) for layer in (nn.Linear(width, width), nn.ReLU())),
            nn.Linear(width, 2),
        )
        for name, start in (("x_low", -2.0), ("x_high", 2.0)):
            self.register_buffer(name, torch.full((n_features,), start))
        self.register_buffer("y_shift", torch.tensor(0.0))
        self.register_buffer("y_scale", torch.tensor(1.0))

    # What every rule shares ---------------------------------------------------------------------------------

    def encode(self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b n"]) -> Rows:
        """Context rows as representations, and keys where the network is attentive."""
        values: Tensor = self.encoder(torch.cat([x, y[..., None]], dim=-1))
        if not self.settings.attentive:
            return Rows(values)
        if x.shape[1]:
            values = self.self_attention(values, values)
        return Rows(values, self.to_keys(x))

    def read(self, rows: Rows, queries: Float[Tensor, "b m w"] | None) -> Float[Tensor, "bk m_or_1 w"]:
        """What the query rows gather from the set: its mean, or by attention. `queries` are theirs in key space."""
        if self.settings.attentive:
            assert rows.keys is not None and queries is not None  # encode and ask make both
            queries = queries.repeat_interleave(len(rows.values) // len(queries), dim=0)
            return self.cross_attention.gather(queries, rows.keys, rows.values, rows.log_weights)
        if rows.values.shape[1] == 0:
            return rows.values.new_zeros(len(rows.values), 1, self.settings.width)
        if rows.log_weights is None:
            return rows.values.mean(dim=1, keepdim=True)
        return (rows.log_weights.softmax(dim=1)[..., None] * rows.values).sum(dim=1, keepdim=True)

    def ask(self, x: Float[Tensor, "b m d"]) -> tuple[Tensor, Tensor | None]:
        """What of the query rows is the same for every draw: their part of the first layer, and their keys."""
        return self.from_x(x), self.to_keys(x) if self.settings.attentive else None

    def hidden(self, rows: Rows, queries: Tensor | None) -> Float[Tensor, "bk m_or_1 w"]:
        """What the set adds to the decoder's first layer."""
        found: Tensor = self.from_r(self.read(rows, queries))
        return found

    def decode(self, x_part: Float[Tensor, "b m w"], hidden: Float[Tensor, "b k m_or_1 w"]) -> Normals:
        """Means and standard deviations of every draw."""
        raw = self.decoder(F.relu(x_part[:, None] + hidden))  # b k m 2
        low = self.settings.min_sd
        return Normals(raw[..., 0], low + (1 - low if low < 1 else 1.0) * F.softplus(raw[..., 1]))

    def predict(self, rows: Rows, query_x: Float[Tensor, "b m d"]) -> Normals:
        """Predictions of every draw that `rows` holds, at the query rows."""
        x_part, queries = self.ask(query_x)
        hidden = self.hidden(rows, queries)
        return self.decode(x_part, hidden.reshape(len(query_x), -1, *hidden.shape[1:]))

    def forward(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        query_x: Float[Tensor, "b m d"],
        noise: Tensor | None = None,
    ) -> Normals:
        """Predictions of k draws; without noise those of the amortised network, k = 1."""
        return self.predict(self.thetas(context_x, context_y, noise), query_x)

    # What a rule says for itself ----------------------------------------------------------------------------

    def noise(
        self, n_tasks: int, n_context: int, n_samples: int, generator: Generator, n_pseudo: int | None = None
    ) -> Tensor | None:
        """Randomness of `n_samples` draws, shape (b, k, ...); None where the rule takes none.

        `n_pseudo` asks for another number of pseudo rows than in training, where the rule has such.
        """
        return None

    def thetas(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        noise: Tensor | None = None,
        donor: tuple[Tensor, Tensor] | None = None,
    ) -> Rows:
        """The rows of every draw of the function; `donor` is the context of another task, for the placebo."""
        return self.encode(context_x, context_y)

    def terms(self, batch: Batch, noise: Tensor | None) -> dict[str, Tensor]:
        """The parts of the objective, in nats a row: to be made large."""
        x, y = whole_task(batch)
        normals = self.forward(batch.context_x, batch.context_y, x)
        return {"amortised": normals.log_prob(y).mean()}

    def loss(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        """What training makes small: minus the weighted terms."""
        total: Tensor = torch.zeros((), device=batch.query_x.device)
        for name, value in self.terms(batch, noise).items():
            total = total - getattr(self.settings, f"weight_{name}", 1.0) * value
        return total


class MartingaleNetwork(ConditionalNP):
    """MPNP, or MPANP: functions from the context completed by generated pseudo rows.

    `rule="none"` (the control arm) keeps the generator and never calls it; `rule="shuffled"` (the placebo) lets it
    read the context of the next task of the batch.
    """

    def __init__(self, n_features: int, settings: NPSettings, rule: str = "martingale") -> None:
        super().__init__(n_features, settings)
        self.rule = check_option("MartingaleNetwork", "rule", rule, ("martingale", "none", "shuffled"))  # type: ignore[misc]
        self.token = settings.width * (2 if settings.attentive else 1)  # value and key of a pseudo row are one token
        self.generator = PseudoGenerator(self.token, settings.n_heads)
        if settings.space == "data":
            self.to_data = nn.Linear(self.token, n_features + 1)
        if rule == "none":
            unused = [self.generator] + ([self.to_data] if settings.space == "data" else [])
            for module in unused:
                module.requires_grad_(False)

    def noise(
        self, n_tasks: int, n_context: int, n_samples: int, generator: Generator, n_pseudo: int | None = None
    ) -> Tensor | None:
        if self.rule == "none" or n_pseudo == 0:
            return None
        shape = (n_tasks, n_samples, n_pseudo or self.settings.n_pseudo, self.token)
        return torch.randn(shape, generator=generator, device=generator.device)

    def pseudo(self, context: Rows, noise: Float[Tensor, "b k p t"]) -> Rows:
        """Pseudo rows of every draw."""
        k = noise.shape[1]
        tokens = context.values if context.keys is None else torch.cat([context.values, context.keys], dim=-1)
        made: Tensor = self.generator(tokens.repeat_interleave(k, dim=0), noise.flatten(0, 1))  # bk p t
        if self.settings.space == "data":
            data = self.to_data(made)
            return self.encode(data[..., :-1], data[..., -1])
        if context.keys is None:
            return Rows(made)
        width = self.settings.width
        return Rows(made[..., :width], made[..., width:])

    def thetas(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        noise: Tensor | None = None,
        donor: tuple[Tensor, Tensor] | None = None,
    ) -> Rows:
        rows = self.encode(context_x, context_y)
        if noise is None:
            return rows
        return rows.repeated(noise.shape[1]).with_rows(self.pseudo(self.encode(*donor) if donor else rows, noise))

    def terms(self, batch: Batch, noise: Tensor | None) -> dict[str, Tensor]:
        if self.rule == "none":
            return super().terms(batch, noise)
        assert noise is not None  # the batch source draws it
        x, y = whole_task(batch)
        k, n = noise.shape[1], y.shape[1]
        rows = self.encode(batch.context_x, batch.context_y)
        source = rows
        if self.rule == "shuffled":
            source = Rows(rows.values.roll(1, 0), None if rows.keys is None else rows.keys.roll(1, 0))
        pseudo = self.pseudo(source, noise)
        x_part, queries = self.ask(x)
        hidden = [self.hidden(each, queries) for each in (rows.repeated(k).with_rows(pseudo), pseudo, rows)]
        split = [part.reshape(len(y), -1, *part.shape[1:]) for part in hidden]
        each = self.decode(x_part, torch.cat(split, dim=1)).log_prob(y).sum(dim=-1)  # b 2k+1
        return {
            "marginal": (torch.logsumexp(each[:, :k], dim=1) - math.log(k)).mean() / n,
            "amortised": each[:, 2 * k].mean() / n,
            "pseudo": each[:, k : 2 * k].mean() / n,
        }


class LatentNP(ConditionalNP):
    """NP, or ANP: a latent Gaussian beside the deterministic path, fitted by the evidence lower bound."""

    rule: ClassVar[str] = "latent"

    def __init__(self, n_features: int, settings: NPSettings) -> None:
        super().__init__(n_features, settings)
        width = settings.width
        self.latent_encoder = mlp(n_features + 1, width, settings.encoder_depth)
        self.to_latent = nn.Linear(width, 2 * width)
        self.from_latent = nn.Linear(width, width, bias=False)

    def noise(
        self, n_tasks: int, n_context: int, n_samples: int, generator: Generator, n_pseudo: int | None = None
    ) -> Tensor | None:
        return torch.randn((n_tasks, n_samples, self.settings.width), generator=generator, device=generator.device)

    def latent(self, x: Tensor, y: Tensor) -> tuple[Float[Tensor, "b w"], Float[Tensor, "b w"]]:
        """Mean and standard deviation of the latent variable given these rows."""
        if x.shape[1]:
            summary = self.latent_encoder(torch.cat([x, y[..., None]], dim=-1)).mean(dim=1)
        else:
            summary = x.new_zeros(len(x), self.settings.width)
        mean, raw = self.to_latent(summary).chunk(2, dim=-1)
        return mean, 0.1 + 0.9 * raw.sigmoid()

    def thetas(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        noise: Tensor | None = None,
        donor: tuple[Tensor, Tensor] | None = None,
    ) -> Rows:
        rows = self.encode(context_x, context_y)
        return self._with_latent(rows, *self.latent(context_x, context_y), noise)

    def _with_latent(self, rows: Rows, mean: Tensor, sd: Tensor, noise: Tensor | None) -> Rows:
        if noise is None:
            return Rows(rows.values, rows.keys, extra=mean[:, None])
        many = rows.repeated(noise.shape[1])
        drawn = mean[:, None] + sd[:, None] * noise  # b k w
        return Rows(many.values, many.keys, extra=drawn.flatten(0, 1)[:, None])

    def hidden(self, rows: Rows, queries: Tensor | None) -> Tensor:
        assert rows.extra is not None  # thetas makes it
        found: Tensor = super().hidden(rows, queries) + self.from_latent(rows.extra)
        return found

    def terms(self, batch: Batch, noise: Tensor | None) -> dict[str, Tensor]:
        assert noise is not None  # the batch source draws it
        x, y = whole_task(batch)
        prior_mean, prior_sd = self.latent(batch.context_x, batch.context_y)
        mean, sd = self.latent(x, y)
        rows = self._with_latent(self.encode(batch.context_x, batch.context_y), mean, sd, noise)
        fit = self.predict(rows, x).log_prob(y).mean()
        ratio, gap = sd / prior_sd, (mean - prior_mean) / prior_sd
        divergence = (0.5 * (ratio.square() + gap.square() - 1) - ratio.log()).sum(dim=-1)
        return {"fit": fit, "divergence": -divergence.mean() / y.shape[1]}


class BootstrapNP(ConditionalNP):
    """BNP, or BANP: functions from resampled contexts.

    Args:
        n_features: columns of x.
        settings: sizes.
        rule: "residual" (published: residuals of a first pass are resampled, and the bootstrapped context enters
            through a layer of its own), "resampled" (rows drawn with replacement) or "dirichlet" (random weights).
    """

    def __init__(self, n_features: int, settings: NPSettings, rule: str = "residual") -> None:
        super().__init__(n_features, settings)
        self.rule = check_option("BootstrapNP", "rule", rule, ("residual", "resampled", "dirichlet"))  # type: ignore[misc]
        if rule == "residual":
            self.from_bootstrap = nn.Linear(settings.width, settings.width, bias=False)

    def noise(
        self, n_tasks: int, n_context: int, n_samples: int, generator: Generator, n_pseudo: int | None = None
    ) -> Tensor | None:
        shape = (n_tasks, n_samples, 2, max(n_context, 1))
        return torch.rand(shape, generator=generator, device=generator.device)

    def thetas(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        noise: Tensor | None = None,
        donor: tuple[Tensor, Tensor] | None = None,
    ) -> Rows:
        rows = self.encode(context_x, context_y)
        n = context_y.shape[1]
        if noise is None or n == 0:
            return rows if noise is None else rows.repeated(noise.shape[1])
        k = noise.shape[1]
        first, second = noise.flatten(0, 1).unbind(dim=1)  # bk n
        if self.rule == "dirichlet":  # normalised exponential numbers; n times their weight is 1 on average
            weights = -(1 - first).clamp_min(1e-30).log()
            log_weights = (weights / weights.sum(dim=1, keepdim=True)).clamp_min(1e-30).log() + math.log(n)
            many = rows.repeated(k)
            return Rows(many.values, many.keys, log_weights)
        x, y = context_x.repeat_interleave(k, dim=0), context_y.repeat_interleave(k, dim=0)
        chosen = (first * n).long().clamp_max(n - 1)
        again_x, again_y = x.gather(1, chosen[..., None].expand_as(x)), y.gather(1, chosen)
        if self.rule == "resampled":
            return self.encode(again_x, again_y)
        with torch.no_grad():  # as published, the bootstrap itself carries no gradient
            guess = super().predict(self.encode(again_x, again_y), x)
            mean, sd = guess.mean[:, 0], guess.sd[:, 0]
            residual = (y - mean) / sd
            residual = residual - residual.mean(dim=1, keepdim=True)
            y = mean + sd * residual.gather(1, (second * n).long().clamp_max(n - 1))
        many = rows.repeated(k)
        return Rows(many.values, many.keys, beside=self.encode(x, y))

    def hidden(self, rows: Rows, queries: Tensor | None) -> Tensor:
        found = super().hidden(rows, queries)
        if rows.beside is not None:
            found = found + self.from_bootstrap(self.read(rows.beside, queries))
        return found

    def terms(self, batch: Batch, noise: Tensor | None) -> dict[str, Tensor]:
        assert noise is not None  # the batch source draws it
        x, y = whole_task(batch)
        drawn = self.forward(batch.context_x, batch.context_y, x, noise)
        base = self.forward(batch.context_x, batch.context_y, x)
        return {"marginal": drawn.joint(y).mean() / y.shape[1], "amortised": base.log_prob(y).mean()}


def make_network(rule: str, n_features: int, settings: NPSettings) -> ConditionalNP:
    """The network of a rule (see `RULES` of the priors)."""
    if rule in ("martingale", "none", "shuffled"):
        return MartingaleNetwork(n_features, settings, rule)
    if rule == "latent":
        return LatentNP(n_features, settings)
    return BootstrapNP(n_features, settings, rule)


def mlp(n_in: int, width: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with ReLU between them."""
    layers: list[nn.Module] = [nn.Linear(n_in, width)]
    for _ in range(depth - 1):
        layers += [nn.ReLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def whole_task(batch: Batch) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m"]]:
    """Inputs and targets of all rows of a task: the objective counts the context too."""
    assert batch.query_y is not None  # simulators know their targets
    return torch.cat([batch.context_x, batch.query_x], dim=1), torch.cat([batch.context_y, batch.query_y], dim=1)
