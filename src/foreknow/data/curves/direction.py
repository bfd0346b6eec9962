"""Which way a metric gets better, as far as its name says so."""

from __future__ import annotations

import re

_LOSSES = ("loss", "error", "err", "rmse", "mse", "mae", "mape", "perplexity", "ppl", "nll", "wer", "cer", "bpb")


def looks_minimized(metric: str) -> bool:
    """Whether the name is that of a loss or an error, such as "val_loss" or "eval/rmse"."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", metric).lower())
    return any(word in _LOSSES or word.endswith("loss") for word in words)
