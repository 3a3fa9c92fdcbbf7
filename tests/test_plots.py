"""The prediction sheet says what it was given: read from the figure's own texts and bars, not from pixels."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from bndl_hf.plots import prediction_sheet

B, C, k = 8, 3, 2


def arrays() -> dict:
    """Eight images, the later the less sure; the last one is answered wrongly."""
    top = np.linspace(0.99, 0.4, B)
    probs = np.stack([top, (1 - top) * 0.7, (1 - top) * 0.3], axis=1)
    true_labels = np.zeros(B, dtype=int)
    true_labels[-1] = 2
    return {
        "images": np.random.default_rng(0).random((B, 6, 6)),
        "true_labels": true_labels,
        "predicted_labels": np.zeros(B, dtype=int),
        "probs": probs,
        "is_certain": np.arange(B) < 6,
        "p_value": np.linspace(0.001, 0.5, B),
        "contributions": np.tile([3.0, 1.0], (B, 1)),
        "factors": np.tile([7, 4], (B, 1)),
        "rest": np.full(B, 0.5),
        "bias": np.full(B, -0.25),
    }


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def test_a_sheet_shows_the_surest_and_the_least_sure_with_verdict_and_parts() -> None:
    figure = prediction_sheet(**arrays(), label_names=["cat", "dog", "owl"], images_per_block=2, title="What it knows")
    shown = " | ".join(texts(figure))
    assert sum(bool(axes.images) for axes in figure.axes) == 4
    for expected in (
        "What it knows",
        "Surest",
        "Least sure",
        "cat",
        "factor 7",
        "factor 4",
        "rest",
        "bias",
        "true: owl",
    ):
        assert expected in shown
    assert sum("uncertain" in t for t in texts(figure)) >= 2
    assert "4.2" in shown  # 3 + 1 + 0.5 - 0.25, to one decimal
    assert "99" in shown
    assert "40" in shown


def test_all_bars_share_one_scale() -> None:
    given = arrays()
    given["contributions"][0] = [6.0, 1.0]  # the surest image's largest part is twice the others'
    figure = prediction_sheet(**given, images_per_block=2)
    widths = [
        patch.get_window_extent().width
        for axes in figure.axes
        for patch in axes.patches
        if isinstance(patch, Rectangle)
        and patch.get_facecolor()[:3] == pytest.approx((0, 158 / 255, 115 / 255), abs=0.01)
    ]
    assert max(widths) == pytest.approx(2 * sorted(widths)[-2], rel=0.01)


def test_mismatched_arrays_are_named() -> None:
    given = arrays() | {"rest": np.zeros(3)}
    with pytest.raises(ValueError, match="rest"):
        prediction_sheet(**given)


def test_without_matplotlib_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np; from bndl_hf.plots import prediction_sheet\n"
        "z = np.zeros(1); prediction_sheet(np.zeros((1, 2, 2)), z, z, np.ones((1, 2)), z, z, np.ones((1, 1)), "
        "np.zeros((1, 1)), z, z)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert "pip install bndl-hf[plots]" in result.stderr.splitlines()[-1]
