"""Studies: arms, seeds, stages and claims in one file; files in, files out, resumable."""

from palimpsest.study.collect import collect
from palimpsest.study.plan import Stage, plan
from palimpsest.study.run import Event, run_study, select
from palimpsest.study.spec import StudySpec, load_study

__all__ = ["Event", "Stage", "StudySpec", "collect", "load_study", "plan", "run_study", "select"]
