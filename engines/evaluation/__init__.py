"""What operating points are worth on labelled pictures: accuracy, cost, latency, and their rivals.

Over any engine; needs no torch. `engines.evaluation.run` does all of it for a bundle.
"""

from engines.evaluation.points import (
    LabelledImages,
    PointResult,
    Trial,
    evaluate_points,
    point_records,
    run_trials,
)
from engines.evaluation.report import differences, summary
from engines.evaluation.statistics import accuracy_of, wilson

__all__ = [
    "LabelledImages",
    "PointResult",
    "Trial",
    "accuracy_of",
    "differences",
    "evaluate_points",
    "point_records",
    "run_trials",
    "summary",
    "wilson",
]
