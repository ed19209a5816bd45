"""What alignment learns from: recipes, conversations as files and as tokens, pairs made of tasks."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from pydantic import ValidationError
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from alignment_case import CHATS, COMPLETIONS, PREFERENCES, SEGMENT, recipe, recipe_values, tasks_data, write_rows
from palimpsest.data import tables
from palimpsest.data.tokenizer import train_tokenizer
from palimpsest.errors import InputError
from palimpsest.schema import parse
from palimpsest.tasks import build_task
from palimpsest.training.alignment import AlignmentRecipe, load_alignment
from palimpsest.training.alignment import conversations as reading
from palimpsest.training.alignment.recipe import ChatsData, DpoSpec, PreferencesData
from palimpsest.training.alignment.rows import alignment_rows
from palimpsest.training.recipe import ModelSpec
from palimpsest.training.state import model_config, new_model
from palimpsest.training.tasks import symbolic_tokenizer


@pytest.fixture
def tokenizer():
    return train_tokenizer(["The sky is blue. The grass is green. The sun is yellow."] * 50, 300)


def rows_of(tmp_path, tokenizer, rows, method="sft", **changed):
    kind = "chats" if method == "sft" else "preferences"
    data = {"kind": kind, "source": str(write_rows(tmp_path / "rows.jsonl", rows)), **changed}
    return alignment_rows(recipe(tmp_path, method, data=data), tokenizer, segment_length=SEGMENT)


def said(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != -100])


# Recipes


def test_the_name_of_a_method_stands_for_its_defaults(tmp_path):
    data = {"kind": "preferences", "source": "pairs.jsonl"}
    short, long = (recipe(tmp_path, method, data=data) for method in ("dpo", {"kind": "dpo", "beta": 0.1}))
    assert short == long
    assert short.method == DpoSpec()
    assert short.digest() == long.digest() != recipe(tmp_path, {"kind": "dpo", "beta": 0.2}, data=data).digest()


def test_a_recipe_survives_its_file(tmp_path):
    made = recipe(tmp_path, "dpo", data={"kind": "preferences", "source": "hub/set", "max_length": 64})
    (tmp_path / "alignment.yaml").write_text(json.dumps(made.model_dump(mode="json")))  # JSON is YAML
    assert load_alignment(tmp_path / "alignment.yaml").digest() == made.digest()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "ppo"}, "unknown value 'ppo' of 'method.kind'"),
        ({"method": {"kind": "sft", "beta": 0.1}}, "unknown key 'method.beta'"),
        ({"method": {"kind": "dpo", "beta": 0.0}}, "'method.beta': should be greater than 0"),
        ({"method": "dpo", "data": {"kind": "chats", "source": "x"}}, "dpo learns from data of kind preferences"),
        ({"data": {"kind": "preferences", "source": "x"}}, "sft learns from data of kind chats or tasks"),
        ({"data": tasks_data() | {"documents": 0.5}}, "set documents and repeats to 0"),
        ({"data": tasks_data() | {"answer_weight": 4.0}}, "leave out answer_weight"),
        ({"data": tasks_data() | {"tokenizer": "x"}}, "leave out tokenizer"),
        ({"data": {"kind": "chats", "source": "x", "too_long": "cut"}}, "has no effect without max_length"),
        ({"model": {}}, "unknown key 'model'"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_in_one_sentence(tmp_path, changed, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(AlignmentRecipe, recipe_values(tmp_path) | changed, "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_gradients_of_some_segments_only_are_refused(tmp_path):
    with pytest.raises(InputError, match="leave out backpropagate_segments"):
        recipe(tmp_path, backpropagate_segments=2)


# Conversations as tokens


def test_only_what_the_assistant_says_has_labels(tmp_path, tokenizer):
    rows = rows_of(tmp_path, tokenizer, CHATS)
    found = {said(tokenizer, rows.row(index)) for index in range(len(CHATS))}
    end = tokenizer.eos_token
    assert found == {f" Yes.{end} No, 31 of 47.{end}", f" Hello, you.{end}"}
    longest = max((rows.row(index) for index in range(2)), key=lambda row: len(row["input_ids"]))
    assert tokenizer.decode(longest["input_ids"]).startswith("System: Be brief.\nUser: ")
    assert len(longest["input_ids"]) == rows.row_length > 4 * SEGMENT


def test_only_a_completion_has_labels(tmp_path, tokenizer):
    rows = rows_of(tmp_path, tokenizer, COMPLETIONS)
    assert {said(tokenizer, rows.row(index)) for index in range(2)} == {
        f" blue.{tokenizer.eos_token}",
        f" yellow.{tokenizer.eos_token}",
    }


def test_of_a_completion_of_several_messages_only_the_assistants_have_labels(tmp_path, tokenizer):
    asks, answers, more, ends = (
        {"role": role, "content": content}
        for role, content in (("user", "Well?"), ("assistant", "Blue."), ("user", "secret"), ("assistant", "Green."))
    )
    rows = [{"prompt": [asks], "completion": [answers, more, ends]}, {"messages": [asks, answers, more, ends]}]
    made = rows_of(tmp_path, tokenizer, rows)
    split, whole = (said(tokenizer, made.row(number)) for number in range(2))
    assert split == whole
    assert "secret" not in whole


@pytest.fixture
def small_model(tokenizer):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    spec = ModelSpec.model_validate({**sizes, "attention": {"segment_length": SEGMENT}})
    return new_model(model_config(spec, len(tokenizer), tokenizer), 0)


SETTINGS = {"max_length": None, "report_to": [], "use_cpu": True, "bf16": False, "activation_checkpointing": False}


@pytest.mark.parametrize("raw", [CHATS, COMPLETIONS], ids=["messages", "completions"])
def test_chats_are_the_tokens_and_labels_that_trl_makes_of_them(tmp_path, tokenizer, small_model, raw):
    rows = rows_of(tmp_path, tokenizer, raw)
    config = SFTConfig(output_dir=str(tmp_path), assistant_only_loss=raw is CHATS, **SETTINGS)
    theirs = SFTTrainer(small_model, config, train_dataset=Dataset.from_list(raw), processing_class=tokenizer)
    wanted = [{name: row[name] for name in ("input_ids", "labels")} for row in theirs.train_dataset]
    assert list(rows.rows) == wanted


@pytest.mark.parametrize("row", PREFERENCES, ids=["texts", "messages", "no-prompt"])
def test_preferences_are_the_tokens_that_trl_makes_of_them(tmp_path, tokenizer, small_model, row):
    (ours,) = rows_of(tmp_path, tokenizer, [row], "dpo").rows
    config = DPOConfig(output_dir=str(tmp_path), precompute_ref_log_probs=False, **SETTINGS)
    theirs = DPOTrainer(
        small_model, small_model.__class__(small_model.config), config, train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )  # fmt: skip
    assert ours == {name: theirs.train_dataset[0][name] for name in ours}


def test_every_epoch_has_all_rows_in_an_order_of_its_own(tmp_path, tokenizer):
    raw = [{"prompt": f"{number}", "completion": " x"} for number in range(20)]
    rows, again = (rows_of(tmp_path, tokenizer, raw) for _ in range(2))
    epochs = [[tuple(rows.row(20 * epoch + at)["input_ids"]) for at in range(20)] for epoch in range(3)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [again.row(index) for index in (41, 3, 41)] == [rows.row(index) for index in (41, 3, 41)]
    assert rows.fingerprint == again.fingerprint != rows_of(tmp_path, tokenizer, raw[:-1]).fingerprint


def test_rows_that_are_too_long_are_refused_dropped_or_cut(tmp_path, tokenizer):
    raw = [{"prompt": "The sky is", "completion": " blue."}, {"prompt": "The sky", "completion": " is blue." * 20}]
    short = rows_of(tmp_path, tokenizer, raw[:1]).row_length
    with pytest.raises(InputError, match=r"rows.jsonl, line 2 has \d+ tokens, and max_length is"):
        rows_of(tmp_path, tokenizer, raw, max_length=short)
    dropped = rows_of(tmp_path, tokenizer, raw, max_length=short, too_long="drop")
    assert len(dropped.rows) == 1
    cut = rows_of(tmp_path, tokenizer, raw, max_length=short, too_long="cut")
    assert [len(row["input_ids"]) for row in cut.rows] == [short, short]
    assert all(any(label != -100 for label in row["labels"]) for row in cut.rows)
    with pytest.raises(InputError, match="All 1 rows"):
        rows_of(tmp_path, tokenizer, raw[1:], max_length=2, too_long="cut")


def test_a_pair_is_cut_in_its_answers_and_dropped_where_they_would_be_alike(tmp_path, tokenizer):
    pair = {"prompt": "The sky", "chosen": " is blue", "rejected": " is green"}
    (whole,) = rows_of(tmp_path, tokenizer, [pair], "dpo").rows
    differ = next(
        at for at, (a, b) in enumerate(zip(whole["chosen_ids"], whole["rejected_ids"], strict=False)) if a != b
    )
    room = len(whole["prompt_ids"]) + differ
    with pytest.raises(InputError, match="All 1 rows"):
        rows_of(tmp_path, tokenizer, [pair], "dpo", max_length=room, too_long="cut")
    (short,) = rows_of(tmp_path, tokenizer, [pair], "dpo", max_length=room + 1, too_long="cut").rows
    assert [len(short[name]) for name in ("chosen_ids", "rejected_ids")] == [differ + 1, differ + 1]


# Templates


def test_a_checkpoint_gets_the_template_of_the_recipe(tmp_path, tokenizer):
    own = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    (tmp_path / "own.jinja").write_text(own)
    rows = rows_of(tmp_path, tokenizer, CHATS[1:], template=str(tmp_path / "own.jinja"))
    assert tokenizer.chat_template == own
    assert said(tokenizer, rows.row(0)) == "HelloHello, you."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ messages[0]['content'] }}", "does not mark what the assistant says"),
        ("{% generation %}{{ raise_exception('no system here') }}{% endgeneration %}", "no system here"),
        (None, "cannot be read"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(tmp_path, tokenizer, text, message):
    if text is not None:
        (tmp_path / "own.jinja").write_text(text)
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path, tokenizer, CHATS, template=str(tmp_path / "own.jinja"))


# Files


def test_parquet_and_folders_give_the_rows_of_jsonl(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(COMPLETIONS), folder / "a.parquet")
    write_rows(folder / "b.jsonl", COMPLETIONS)
    found = [chat[1:] for chat in reading.chats(ChatsData(source=str(folder)))]
    assert len(found) == 4
    assert found[:2] == found[2:]
    assert len(list(reading.chats(ChatsData(source=str(folder), limit=3)))) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x"}], r"line 1: there is no 'prompt' \(columns: text\); give messages, or prompt and completion"),
        ([{"prompt": "x"}], "there is no 'completion'"),
        ([{"messages": []}], "should be a list of messages"),
        ([{"messages": ["hello"]}], "message 0 of 'messages' should have role and content"),
        ([{"messages": [{"role": "user", "content": 3}]}], "'content' of message 0 of 'messages' should be text"),
        ([{"messages": [{"role": "user", "content": "x"}]}], "the assistant says nothing"),
        ([{"prompt": "x", "completion": CHATS[1]["messages"]}], "of different kinds"),
        ([], "has no rows"),
    ],
)
def test_a_row_that_is_no_chat_is_refused_with_its_place(tmp_path, rows, message):
    source = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=message):
        list(reading.chats(ChatsData(source=str(source))))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "chosen": "y"}, "there is no 'rejected'"),
        ({"chosen": "x", "rejected": "y"}, "texts do not tell where their prompt ends"),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "must be two different answers"),
        ({"prompt": "x", "chosen": "y", "rejected": [{"role": "user", "content": "z"}]}, "of different kinds"),
    ],
)
def test_a_row_that_is_no_preference_is_refused_with_its_place(tmp_path, row, message):
    source = write_rows(tmp_path / "rows.jsonl", [PREFERENCES[0], row])
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        list(reading.preferences(PreferencesData(source=str(source))))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {
                "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
            },
            "no prompt in common",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "b<|endoftext|>"}, "must be two different answers"),
        ({"prompt": "a \ud800", "chosen": "b", "rejected": "c"}, "lone surrogate"),
    ],
)
def test_a_pair_that_teaches_nothing_is_refused_with_its_place(tmp_path, tokenizer, row, message):
    with pytest.raises(InputError, match=f"line 1.*{message}"):
        rows_of(tmp_path, tokenizer, [row], "dpo")


def test_a_source_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"prompt": "x"\n')
    (tmp_path / "broken.parquet").write_text("no parquet")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("broken.jsonl", "line 1 is not JSON"),
        ("broken.parquet", "cannot be read as Parquet"),
        ("notes.txt", "give one of .jsonl, .parquet"),
        ("empty", "holds no file that can be read here: put .jsonl, .parquet"),
        ("nowhere", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            list(reading.chats(ChatsData(source=str(tmp_path / source))))
    local = write_rows(tmp_path / "rows.jsonl", COMPLETIONS)
    with pytest.raises(InputError, match="The option config is for hub datasets only"):
        list(reading.chats(ChatsData(source=str(local), config="default")))


def test_a_hub_dataset_is_streamed(monkeypatch):
    asked = []

    def load(source, config, *, split, revision, streaming):
        asked.append((source, config, split, revision, streaming))
        yield from COMPLETIONS
        raise ConnectionError("the line went dead")

    monkeypatch.setattr(tables, "resolve_revision", lambda *arguments: "0123abc")
    monkeypatch.setattr("datasets.load_dataset", load)
    data = ChatsData(source="someone/chats", config="small", split="test", limit=2)
    assert [chat.completion for chat in reading.chats(data)] == [" blue.", " yellow."]
    assert asked == [("someone/chats", "small", "test", "0123abc", True)]
    with pytest.raises(InputError, match=r"broke off after 2 rows \(the line went dead\)"):
        list(reading.chats(data.model_copy(update={"limit": None})))


# Tasks


def test_a_pair_asks_for_one_value_and_rejects_another_of_the_haystack(tmp_path):
    made = recipe(tmp_path, "dpo", data=tasks_data())
    rows = alignment_rows(made, symbolic_tokenizer(), segment_length=SEGMENT)
    for index in range(50):
        row = rows.row(index)
        assert len(row["chosen_ids"]) == len(row["rejected_ids"]) == 1
        prompt, (chosen,), (rejected,) = (row[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
        key = prompt[-1]
        told = {prompt[at + 1]: prompt[at + 2] for at, token in enumerate(prompt[:-2]) if token == 2}
        assert told[key] == chosen != rejected
        assert rejected in told.values()
        assert 48 <= len(prompt) + 1 <= 64
    assert rows.row(7) == rows.row(7) != rows.row(8)


def test_without_another_value_any_wrong_answer_is_rejected(tmp_path):
    made = recipe(tmp_path, "dpo", data=tasks_data(needles=1))
    rows = alignment_rows(made, symbolic_tokenizer(), segment_length=SEGMENT)
    for index in range(20):
        row = rows.row(index)
        assert row["rejected_ids"] != row["chosen_ids"]
        assert row["rejected_ids"][0] not in row["prompt_ids"]


def test_no_pair_of_key_and_value_of_the_evaluation_is_learned_from(tmp_path):
    from palimpsest.training.tasks import evaluation_pairs

    made = recipe(tmp_path, "dpo", data=tasks_data())
    rows = alignment_rows(made, symbolic_tokenizer(), segment_length=SEGMENT)
    for index in range(50):
        row = rows.row(index)
        assert not evaluation_pairs(np.array([0, *row["prompt_ids"], *row["chosen_ids"]])).any()


def test_tasks_of_chats_are_rows_of_training_without_their_padding(tmp_path):
    made = recipe(tmp_path, data=tasks_data(questions=2))
    rows = alignment_rows(made, symbolic_tokenizer(), segment_length=SEGMENT)
    task = build_task(made.data.tasks[0].task, symbolic_tokenizer(), segment_length=SEGMENT)
    for index in range(10):
        row, whole = rows.row(index), task.training_sample(made.seed, index)
        real = whole.document_ids == 0
        assert row == {"input_ids": whole.input_ids[real].tolist(), "labels": whole.labels[real].tolist()}


def test_a_schema_refuses_what_it_does_not_know():
    with pytest.raises(ValidationError, match="extra"):
        ChatsData.model_validate({"source": "x", "text_column": "text"})
