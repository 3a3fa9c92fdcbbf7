"""Arrays in, matplotlib Figure out: what the numbers of the other modules look like.

Nothing here knows a model. Every function takes NumPy arrays (or CPU tensors), builds a `matplotlib.figure.Figure` of
its own and returns it; `pyplot` and its global state are never touched, so it works in threads, servers and notebooks
alike. matplotlib is an extra, imported only when a figure is asked for. `save_figure` writes one to a file.
"""

from .calibration import accuracy_by_decile_plot, reliability_diagram
from .factor_sheet import factor_sheet
from .frontier import sparsity_frontier_plot
from .map_overlays import map_overlays, overlay_colours
from .measure_curves import measure_curves_plot
from .neutral import neutral_figure, save_neutral_figure
from .ood import uncertainty_histograms
from .pavpu import pavpu_plot
from .published import published_comparison_plot
from .selective import risk_coverage_plot
from .style import (
    BIAS_COLOR,
    CERTAIN_COLOR,
    FACTOR_COLOR,
    FONT,
    INK,
    MUTED,
    REST_COLOR,
    RULE,
    UNCERTAIN_COLOR,
    save_figure,
)
from .tasks import task_comparison_plot
from .top_factors import top_factors_plot, weights_per_class_plot
from .verdict_sheet import ShownAnswer, verdict_sheet
from .waterfall import waterfall_plot

__all__ = [
    "BIAS_COLOR",
    "CERTAIN_COLOR",
    "FACTOR_COLOR",
    "FONT",
    "INK",
    "MUTED",
    "REST_COLOR",
    "RULE",
    "UNCERTAIN_COLOR",
    "ShownAnswer",
    "accuracy_by_decile_plot",
    "factor_sheet",
    "map_overlays",
    "measure_curves_plot",
    "neutral_figure",
    "overlay_colours",
    "pavpu_plot",
    "published_comparison_plot",
    "reliability_diagram",
    "risk_coverage_plot",
    "save_figure",
    "save_neutral_figure",
    "sparsity_frontier_plot",
    "task_comparison_plot",
    "top_factors_plot",
    "uncertainty_histograms",
    "verdict_sheet",
    "waterfall_plot",
    "weights_per_class_plot",
]
