"""The symbolic tasks by name."""

from typing import Any

from palimpsest.tasks.symbolic.babi import Babi, BabiSpec
from palimpsest.tasks.symbolic.copying import (
    Copy,
    CopySpec,
    Induction,
    InductionSpec,
    SelectiveCopy,
    SelectiveCopySpec,
)
from palimpsest.tasks.symbolic.counting import CommonWords, CommonWordsSpec, FrequentWords, FrequentWordsSpec
from palimpsest.tasks.symbolic.mqar import ForgettingMqar, ForgettingMqarSpec, Mqar, MqarSpec
from palimpsest.tasks.symbolic.multikey import Multikey, MultikeySpec
from palimpsest.tasks.symbolic.multivalue import Multiquery, MultiquerySpec, Multivalue, MultivalueSpec
from palimpsest.tasks.symbolic.overwrite import Overwrite, OverwriteSpec
from palimpsest.tasks.symbolic.passkey import SymbolicPasskey, SymbolicPasskeySpec
from palimpsest.tasks.symbolic.states import S3, S5, Parity, ParitySpec, S3Spec, S5Spec
from palimpsest.tasks.symbolic.summary import Summary, SummarySpec
from palimpsest.tasks.symbolic.tracking import VariableTracking, VariableTrackingSpec

SymbolicTaskSpec = (
    SymbolicPasskeySpec
    | MultikeySpec
    | MultivalueSpec
    | MultiquerySpec
    | OverwriteSpec
    | MqarSpec
    | ForgettingMqarSpec
    | VariableTrackingSpec
    | CommonWordsSpec
    | FrequentWordsSpec
    | BabiSpec
    | CopySpec
    | SelectiveCopySpec
    | InductionSpec
    | ParitySpec
    | S3Spec
    | S5Spec
    | SummarySpec
)
"""The knobs of any symbolic task; ``kind`` says of which."""

SYMBOLIC_TASKS: dict[str, Any] = {
    task.name: task
    for task in (
        SymbolicPasskey,
        Multikey,
        Multivalue,
        Multiquery,
        Overwrite,
        Mqar,
        ForgettingMqar,
        VariableTracking,
        CommonWords,
        FrequentWords,
        Babi,
        Copy,
        SelectiveCopy,
        Induction,
        Parity,
        S3,
        S5,
        Summary,
    )
}
