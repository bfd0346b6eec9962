"""Pages of draws in every view."""

import numpy as np
import pytest
import torch

from foreknow.common.errors import CapabilityError, ConfigError
from foreknow.core.batch import Batch
from foreknow.viz import draw_batch, to_png


def batch(n_tasks=3, n_features=2, labels=2, with_targets=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_tasks, 9, n_features, generator=generator)
    y = torch.randint(labels, (n_tasks, 9), generator=generator).float() if labels else x.sum(-1)
    return Batch(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:] if with_targets else None)


@pytest.mark.parametrize("with_targets", [True, False])
@pytest.mark.parametrize(
    ("view", "n_features", "labels"),
    [("curves", 1, 0), ("curves", 3, 0), ("table", 1, 0), ("table", 2, 3), ("table", 5, 0), ("images", 16, 2)],
)
def test_every_view_draws_one_picture_a_task(view, n_features, labels, with_targets):
    figure = draw_batch(batch(3, n_features, labels, with_targets), "a $title$", view=view)
    assert len(figure.axes) == 3 and figure.get_suptitle() == "a $title$"
    assert to_png(figure, dpi=40).startswith(b"\x89PNG")


def test_at_most_n_tasks_are_drawn():
    assert len(draw_batch(batch(5), "t", n_tasks=4).axes) == 4


def test_curves_mark_the_context_and_run_in_order():
    drawn = batch(1, 1, 0)
    curve, points = draw_batch(drawn, "t", view="curves").axes[0].get_lines()
    assert len(curve.get_xdata()) == 9 and (np.diff(curve.get_xdata()) >= 0).all()
    np.testing.assert_allclose(points.get_ydata(), drawn.context_y[0].numpy(), rtol=1e-6)


def test_tables_colour_by_class():
    axes = draw_batch(batch(1, 2, 3), "t").axes[0]
    assert len(axes.collections) == 3
    assert sum(len(points.get_offsets()) for points in axes.collections) == 9


def test_what_cannot_be_drawn():
    with pytest.raises(ConfigError, match="view must be one of"):
        draw_batch(batch(), "t", view="picture")
    with pytest.raises(CapabilityError, match="rows of 2 columns are not square"):
        draw_batch(batch(), "t", view="images")
    with pytest.raises(ConfigError, match="n_tasks"):
        draw_batch(batch(), "t", n_tasks=0)
