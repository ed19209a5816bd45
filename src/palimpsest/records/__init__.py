"""The schemas that every stage writes and every report reads.

Stages exchange files only, and these are the rows of those files. All models are closed (an unknown key is an
error) and carry no torch, so that ``palimpsest.report`` and ``palimpsest.statistics`` work without it.
"""

from palimpsest.records.audit import AuditRecord, AuditSetting, CanaryRecord, RepeatedPassage, SharedPassage
from palimpsest.records.base import Record
from palimpsest.records.files import (
    LINES,
    line_files,
    read_json,
    read_jsonl,
    sync,
    write_atomic,
    write_json,
    write_jsonl,
)
from palimpsest.records.items import ErrorClass, ItemRecord, ShownItemRecord, ShownOutput, ShownPart
from palimpsest.records.mechanism import MechanismRecord, MechanismSetting
from palimpsest.records.memories import EffectRecord, ProfileRecord, StateCostRecord
from palimpsest.records.origin import Measurement, Origin
from palimpsest.records.scorecard import FigureRecord, RowRecord, ScorecardArm, ScorecardRecord, Series, ValidityRecord
from palimpsest.records.studies import GRIDS, ArmRecord, EstimateRecord, StudyRecord, VerdictRecord
from palimpsest.records.texts import ForgettingRecord, PerturbationRecord, PlaceLossRecord, PositionLossRecord
from palimpsest.records.training import CostRecord, LayerMetrics, Provenance, StepRecord

__all__ = [
    "GRIDS",
    "LINES",
    "ArmRecord",
    "AuditRecord",
    "AuditSetting",
    "CanaryRecord",
    "CostRecord",
    "EffectRecord",
    "ErrorClass",
    "EstimateRecord",
    "FigureRecord",
    "ForgettingRecord",
    "ItemRecord",
    "LayerMetrics",
    "Measurement",
    "MechanismRecord",
    "MechanismSetting",
    "Origin",
    "PerturbationRecord",
    "PlaceLossRecord",
    "PositionLossRecord",
    "ProfileRecord",
    "Provenance",
    "Record",
    "RepeatedPassage",
    "RowRecord",
    "ScorecardArm",
    "ScorecardRecord",
    "Series",
    "SharedPassage",
    "ShownItemRecord",
    "ShownOutput",
    "ShownPart",
    "StateCostRecord",
    "StepRecord",
    "StudyRecord",
    "ValidityRecord",
    "VerdictRecord",
    "line_files",
    "read_json",
    "read_jsonl",
    "sync",
    "write_atomic",
    "write_json",
    "write_jsonl",
]
