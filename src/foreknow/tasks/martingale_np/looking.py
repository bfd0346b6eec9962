"""Pictures of a fitted system: what it believed before the context, and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from foreknow.core.pictures import ImageGrid, Picture
from foreknow.tasks.martingale_np.files import functions_picture
from foreknow.tasks.martingale_np.posterior import FunctionPosterior
from foreknow.tasks.martingale_np.tasks import pixel_places

if TYPE_CHECKING:
    from foreknow.tasks.martingale_np.system import MartingaleNP

_SIDE = 16


def pictures(system: MartingaleNP) -> Mapping[str, Picture]:
    """Functions of one column as lines, of two as images of 16 x 16; none for more columns."""
    after = system.posterior_
    x, y = after.context
    empty = x[:0], y[:0]
    before = FunctionPosterior(
        after.network, empty, after.scaling, n_samples=after.n_samples, n_pseudo=after.n_pseudo, seed=after.seed,
        source=after.source,
    )  # fmt: skip
    scaling = after.scaling
    low, high = (end.double().cpu().numpy() for end in (after.network.x_low, after.network.x_high))
    if after.network.n_features == 1:
        ends = np.stack([low, high]) * scaling.x_scale + scaling.x_shift
        known_x = x.double().cpu().numpy() * scaling.x_scale + scaling.x_shift
        known_y = y.double().cpu().numpy() * scaling.y_scale + scaling.y_shift
        none = known_x[:0], known_y[:0]
        return {
            "prior": functions_picture(before, ends, *none, "x", "y", "before any row"),
            "posterior": functions_picture(after, ends, known_x, known_y, "x", "y", f"after {len(known_y)} rows"),
        }
    if after.network.n_features != 2:
        return {}
    place = pixel_places(_SIDE, _SIDE).double()
    unit = ((place + 2.0) / 4.0).numpy()
    rows = (low + (high - low) * unit) * scaling.x_scale + scaling.x_shift
    grid = []
    for posterior in (before, after) if len(y) else (before,):
        images = [posterior.mean(rows), *posterior.sample(rows, 4, with_noise=False)]
        grid.append([image.reshape(_SIDE, _SIDE) for image in images])
    titles = ["mean", *(f"function {i + 1}" for i in range(4))]
    return {"functions": ImageGrid(grid, titles, ["before", "after"][: len(grid)], limits=None)}
