"""The command line of lm-evaluation-harness with the model ``palimpsest`` and our tasks in it.

python -m palimpsest.study.lm_eval run --model palimpsest --model_args pretrained=runs/mine --tasks palimpsest_passkey

The harness finds models in its own registry only and has no plug-ins, so that one process has to import both.
"""

import sys
import tempfile
from pathlib import Path

from palimpsest.errors import refused


def main() -> None:
    """Run ``lm_eval`` with the arguments of this process, all of which it knows."""
    try:
        from lm_eval._cli import HarnessCLI
        from lm_eval.utils import setup_logging

        from palimpsest.study.lm_eval import model  # noqa: F401 (registers itself)
        from palimpsest.study.lm_eval.tasks import write_task_files
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install 'palimpsest-lm[lm-eval]'.")
    setup_logging()
    harness = HarnessCLI()
    arguments = harness.parse_args()
    with tempfile.TemporaryDirectory(prefix="palimpsest-tasks-") as folder:
        write_task_files(Path(folder))
        if hasattr(arguments, "include_path"):
            given = arguments.include_path
            arguments.include_path = [folder, *([given] if given else [])]
        with refused("palimpsest"):
            harness.execute(arguments)


if __name__ == "__main__":
    main()
