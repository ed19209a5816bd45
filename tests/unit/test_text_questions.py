"""Questions about articles in SQuAD's schema: what is read, what is asked, and which article is in which split."""

import json
import re

import numpy as np
import pytest

from palimpsest.errors import InputError
from palimpsest.tasks import Output, build_task, task_spec
from palimpsest.tasks.text.squad import read_articles, split_of
from text_case import articles_task, decode, encode, haystack, question, tokenizer, write_articles


def test_questions_about_articles_are_items_like_all_others(tmp_path):
    task = articles_task(tmp_path)
    for index in range(8):
        sample = task.sample(
            split="evaluation", seed=0, index=index, length=700, depth=[None, 0.0, 0.5, 1.0][index % 4]
        )
        ids = sample.input_ids.tolist()
        assert sample.length == 700
        assert encode(decode(ids)) == ids
        (needle,) = sample.needles
        sentence = decode(ids[needle.start : needle.end])
        town = re.search(r"flag of (\w+) show\?", question(sample))
        assert town is not None
        bird = re.fullmatch(rf" The flag of {town.group(1)} shows a (\w+) bird on \w+ ground\.", sentence)
        assert bird is not None
        assert bird.group(1) == sample.answer
        assert needle.start // 128 == (needle.end - 1) // 128
        assert len(re.findall(sample.answer, haystack(sample))) == 1
        assert len(set(sample.candidates)) == 16
        assert set(sample.facts["accepted"].split("\n")) == {sample.answer, f"a {sample.answer} bird"}
        logprobs = np.zeros(16)
        assert task.score(sample, Output(f" A {sample.answer} bird.", logprobs)).exact
        wrong = task.score(sample, Output(f" {sample.others[0]}", logprobs))
        assert (wrong.exact, wrong.contains, wrong.error_class) == (False, False, "other_value")
    row = task.training_sample(0, 0)
    assert (row.labels[row.labels != -100] == row.input_ids[row.labels != -100]).all()


def test_splits_share_no_article(tmp_path):
    articles = read_articles(write_articles(tmp_path / "a.json"))
    task = articles_task(tmp_path)
    for split in ("training", "evaluation"):
        mine = {paragraph.text for paragraph in articles.paragraphs if split_of(paragraph.title) == split}
        text = haystack(task.sample(split=split, seed=0, index=0, length=900, depth=None))
        told = list(re.findall(r"(Town\w+) lies", text))
        assert told
        assert all(any(found.startswith(f"{town} lies") for found in mine) for town in told)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_all_layouts_of_squad_read_alike(tmp_path, suffix):
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = write_articles(tmp_path / "a.json", articles=3)
    rows = [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": {"text": [answer["text"] for answer in asked["answers"]], "answer_start": [0, 0]},
        }
        for article in json.loads(source.read_text())["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_articles(path) == read_articles(source)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "cannot be read"),
        ("broken.json", "{", "is not in SQuAD's schema"),
        ("other.json", '{"rows": []}', "is not in SQuAD's schema"),
        ("empty.json", '{"data": []}', "has no question whose answer occurs in just one sentence"),
        ("other.jsonl", '{"title": "a"}', "is not in SQuAD's schema"),
    ],
)
def test_files_that_are_no_squad_are_refused(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        build_task(task_spec({"kind": "qa", "file": str(tmp_path / name)}), tokenizer(), segment_length=128)
