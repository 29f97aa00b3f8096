"""Compare two servers by content, key by key, with deadlines, in both directions, while writes may go on.

Read in this order: `report` (what is asked and answered), `comparison` (rounds), `look` (one look), `glance` (a page of
keys in one call), `values` and `pieces` (what a glance does not tell), `flow` (what is on its way), `side`. Nothing is
written, and reserved keys are left out.
"""

from sync.verify.comparison import Comparison, compare
from sync.verify.mapping import Mapping, TaskMapping
from sync.verify.report import KINDS, Difference, Options, Progress, Report

__all__ = [
    "KINDS",
    "Comparison",
    "Difference",
    "Mapping",
    "Options",
    "Progress",
    "Report",
    "TaskMapping",
    "compare",
]
