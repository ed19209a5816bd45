"""The kinds of studies, told apart by ``kind`` in their files: how each is read and planned."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

from palimpsest.schema import parse_yaml
from palimpsest.study.plan import Stage, plan_study
from palimpsest.study.scorecard.plan import plan_scorecard
from palimpsest.study.scorecard.spec import ScorecardSpec
from palimpsest.study.spec import StudySpec

AnyStudy: TypeAlias = StudySpec | ScorecardSpec


def load_study(path: Path) -> AnyStudy:
    """Read a study file.

    Raises:
        InputError: as ``parse_yaml``.
    """
    return parse_yaml(ScorecardSpec if _kind(path) == "scorecard" else StudySpec, path)


def plan(spec: AnyStudy) -> list[Stage]:
    """Return the stages of a study, every stage after its inputs. A pure function of the study file."""
    return plan_scorecard(spec) if isinstance(spec, ScorecardSpec) else plan_study(spec)


def _kind(path: Path) -> object:
    """Return what a file says of its kind, None where it cannot be read; whoever parses it will say why."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return content.get("kind") if isinstance(content, Mapping) else None
