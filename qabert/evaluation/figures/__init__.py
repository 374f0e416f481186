"""Figures of predictions and of runs (paper, figures 2 to 6); each function returns a `matplotlib.figure.Figure`.

Every figure is as wide as a page, in type of 9 points; it can be read in grey and by colour-blind people, and takes
labels as they come: long, many, with signs of any script.  `save_figure` writes one as PNG and SVG.
"""

from qabert.evaluation.figures.comparison import calibration_figure, only_right_figure
from qabert.evaluation.figures.models import confusion_figure, label_shares_figure, model_figures, regression_figure
from qabert.evaluation.figures.runs import history_figure, scores_figure
from qabert.evaluation.figures.style import require_matplotlib, save_figure

__all__ = [
    "calibration_figure", "confusion_figure", "history_figure", "label_shares_figure", "model_figures",
    "only_right_figure", "regression_figure", "require_matplotlib", "save_figure", "scores_figure",
]  # fmt: skip
