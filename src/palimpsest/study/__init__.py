"""Studies: arms, seeds, stages and claims in one file; files in, files out, resumable."""

from palimpsest.study.collect import collect
from palimpsest.study.kinds import AnyStudy, load_study, plan
from palimpsest.study.plan import Stage
from palimpsest.study.run import Event, run_study, select
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.spec import StudySpec

__all__ = [
    "AnyStudy",
    "Event",
    "ScorecardSpec",
    "Stage",
    "StudySpec",
    "collect",
    "load_study",
    "plan",
    "run_study",
    "select",
]
