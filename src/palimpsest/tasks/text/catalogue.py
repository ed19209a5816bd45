"""The tasks in text by name."""

from typing import Any

from palimpsest.tasks.text.babilong import Babilong, BabilongSpec
from palimpsest.tasks.text.counting import CommonWords, CommonWordsSpec, FrequentWords, FrequentWordsSpec
from palimpsest.tasks.text.lookups import (
    KeyValue,
    KeyValueSpec,
    Overwrite,
    OverwriteSpec,
    PhoneBook,
    PhoneBookSpec,
    Rosetta,
    RosettaSpec,
    TextPasskey,
    TextPasskeySpec,
)
from palimpsest.tasks.text.niah import Niah, NiahSpec
from palimpsest.tasks.text.qa import Qa, QaSpec
from palimpsest.tasks.text.tracking import Tracking, TrackingSpec

TextTaskSpec = (
    TextPasskeySpec
    | NiahSpec
    | RosettaSpec
    | KeyValueSpec
    | PhoneBookSpec
    | OverwriteSpec
    | TrackingSpec
    | CommonWordsSpec
    | FrequentWordsSpec
    | BabilongSpec
    | QaSpec
)
"""The knobs of any task in text but ``passkey``; ``kind`` says of which."""

TEXT_TASKS: dict[str, Any] = {
    task.name: task
    for task in (
        TextPasskey,
        Niah,
        Rosetta,
        KeyValue,
        PhoneBook,
        Overwrite,
        Tracking,
        CommonWords,
        FrequentWords,
        Babilong,
        Qa,
    )
}
