"""The directory of a study: ``study.yaml`` (as last run), ``prereg.json`` (as first run), stages, records, report."""

from pathlib import Path

import yaml

from palimpsest.errors import InputError
from palimpsest.records import write_atomic
from palimpsest.study.kinds import AnyStudy, load_study
from palimpsest.study.preregistration import preregister

STUDY = "study.yaml"


def open_directory(spec: AnyStudy, out: Path) -> list[str]:
    """Make ``out`` the directory of this study, or continue in it.

    What is fixed before a study runs is written down here, before it runs. A directory of another study, or of an
    earlier version of this one, is continued: stages that are the same in both are not run again.

    Returns:
        How the study differs from what was written down when the directory was made.

    Raises:
        InputError: ``out`` is a file, or holds something that is no study.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a directory for the study.")
    if out.exists() and not (out / STUDY).exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"{out} holds other files and no study; give a new or empty directory.")
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_atomic(out / STUDY, text)
    return preregister(spec, spec.sha256, out)


def read_directory(out: Path) -> AnyStudy:
    """Return the study that was last run in a directory.

    Raises:
        InputError: it holds no study.
    """
    if not (out / STUDY).is_file():
        raise InputError(f"{out} is not the directory of a study: there is no {STUDY} in it.")
    return load_study(out / STUDY)
