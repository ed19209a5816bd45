"""Rows of needle prompts: what is packed can be taken apart again, labels are where they should be, runs train."""

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cli_case import refused, run
from needle_case import CYCLE_TOKENS, encode, needle_tokenizer, needles_recipe
from palimpsest.cli.info import describe_recipe, row_length
from palimpsest.data import IGNORED
from palimpsest.data.needles import StoredNeedles, stored_rows
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig
from palimpsest.records import read_json, write_json
from palimpsest.schema import parse
from palimpsest.tasks import Passkey, PasskeySpec
from palimpsest.tasks.keys import is_evaluation_key
from palimpsest.tasks.needles import CYCLE, PublishedNeedles
from palimpsest.training import Recipe, train
from palimpsest.training.data import batch_source
from palimpsest.training.needles import NeedleRows, generated_rows, require_positions, write_needles
from training_case import SEGMENT

TOKENIZER = needle_tokenizer()
PUBLISHED = {"kind": "published", "number": 24, "lengths": [180, 400, 700], "depths": [0, 50, 100]}
INTENDED = {"kind": "intended", "number": 12, "lengths": [140, 170], "depths": [0, 50, 100]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("sets")


def data(tokenizer, **values):
    return needles_recipe(tokenizer, values).data


def rows(made, values: dict, *, seed: int = 0) -> NeedleRows:
    """Return rows over a set that is tokenised once for all tests."""
    spec = needles_recipe("unused", {"prompts": PUBLISHED, **values}).data
    directory = made / f"{spec.prompts.kind}-{spec.end_of_text}"
    return NeedleRows(spec, seed, TOKENIZER, directory=directory, segment_length=SEGMENT)


def texts(spec) -> list[str]:
    return [row.prompt for row in generated_rows(spec.prompts, TOKENIZER, segment_length=SEGMENT)]


@given(length=st.integers(20, 700), end_of_text=st.booleans(), loss=st.sampled_from(["all", "answer"]))
def test_the_texts_can_be_read_back_from_packed_rows(made, length, end_of_text, loss):
    packed = rows(made, {"packing": "packed", "sequence_length": length, "end_of_text": end_of_text, "loss": loss})
    all_rows = [packed.made_row(number) for number in range(packed.prompts.tokens.size // length)]
    stream, documents, before = [], [], 0
    for row in all_rows:
        assert row.document_ids[0] == 0
        stream += row.input_ids.tolist()
        # a row begins in the document that the last one ended in, unless a text begins right there
        begins = len(documents) * length in packed.prompts.starts and bool(documents)
        documents.append(row.document_ids + before + begins)
        before = int(documents[-1][-1])
    documents = np.concatenate(documents)
    closing = [TOKENIZER.eos_token_id] if end_of_text else []
    wanted = [encode(text) + closing for text in texts(packed.data)]
    assert stream == [token for ids in wanted for token in ids][: len(stream)]
    assert sum(map(len, wanted)) - len(stream) < length
    for number in range(documents[-1]):
        assert np.array(stream)[documents == number].tolist() == wanted[number]


def slow_labels(packed: NeedleRows, number: int) -> list[int]:
    """Return the labels of a packed row, token by token."""
    length = packed.row_length
    labels = []
    for place in range(number * length, (number + 1) * length):
        prompt = int(np.searchsorted(packed.prompts.starts, place, side="right")) - 1
        wanted = packed.data.loss == "all" or place >= packed.prompts.asked[prompt]
        first = place % length == 0 or place == packed.prompts.starts[prompt]
        labels.append(int(packed.prompts.tokens[place]) if wanted and not first else IGNORED)
    return labels


@given(length=st.integers(10, 300), loss=st.sampled_from(["all", "answer"]))
def test_labels_are_on_all_tokens_or_on_the_answers_alone(made, length, loss):
    packed = rows(made, {"packing": "packed", "sequence_length": length, "loss": loss})
    everything = range(packed.prompts.tokens.size // length)
    labels = {number: slow_labels(packed, number) for number in everything}
    for number in everything:
        assert packed.made_row(number).labels.tolist() == labels[number]
    taught = [number for number in everything if loss == "all" or set(labels[number]) != {IGNORED}]
    assert packed.rows.tolist() == taught


def test_a_row_that_only_begins_with_the_end_of_an_answer_is_left_out(made):
    """Nothing in it says what its first token should have been."""
    length = int(rows(made, {"packing": "packed"}).prompts.ends[0]) - 1
    packed = rows(made, {"packing": "packed", "sequence_length": length})
    assert set(slow_labels(packed, 1)) == {IGNORED}
    assert packed.rows[:2].tolist() == [0, 2]


@pytest.mark.parametrize("packing", ["padded", "whole"])
@pytest.mark.parametrize("loss", ["all", "answer"])
def test_one_prompt_a_row(made, packing, loss):
    length = 270 if packing == "whole" else 150
    single = rows(made, {"packing": packing, "sequence_length": length, "loss": loss})
    for number, text in enumerate(texts(single.data)):
        row, ids = single.made_row(number), encode(text)
        kept = min(len(ids), length)
        answer = len(encode(text[text.rindex("is ") + 2 :]))
        assert row.input_ids[:kept].tolist() == ids[:kept]
        assert (row.input_ids[kept:] == TOKENIZER.pad_token_id).all()
        assert row.document_ids.tolist() == [0] * kept + [-1] * (length - kept)
        first = 1 if loss == "all" else len(ids) - answer + 1  # the blank before the key is not the key's
        labelled = np.flatnonzero(row.labels != IGNORED)
        assert labelled.tolist() == list(range(min(first, kept), kept))
        assert (row.labels[labelled] == row.input_ids[labelled]).all()


def test_what_is_cut_off_teaches_no_answer(made, caplog):
    with caplog.at_level(logging.WARNING):
        single = rows(made, {"packing": "padded", "sequence_length": 150})
    short = [number for number, text in enumerate(texts(single.data)) if len(encode(text)) <= 150]
    assert 0 < len(short) < 24
    assert set(short) <= set(single.rows.tolist())
    assert f"{24 - single.rows.size} of 24 rows hold no answer and are left out." in caplog.text
    assert len(rows(made, {"packing": "padded", "sequence_length": 150, "loss": "all"})) == 24
    with pytest.raises(InputError, match=r"No row of 40 tokens .* holds an answer"):
        rows(made, {"packing": "padded", "sequence_length": 40})


def test_a_prompt_longer_than_a_row_is_refused_unless_it_may_be_cut(made):
    longest = max(len(encode(text)) for text in texts(rows(made, {"packing": "packed"}).data))
    with pytest.raises(InputError) as error:
        rows(made, {"packing": "whole", "sequence_length": longest - 1})
    assert f"longer than sequence_length {longest - 1} (the longest has {longest} tokens)" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(rows(made, {"packing": "whole", "sequence_length": longest})) == 24


def test_a_set_shorter_than_a_row_is_refused(made):
    with pytest.raises(InputError, match="fewer than one row of 100000 "):
        rows(made, {"packing": "packed", "sequence_length": 100_000})


@pytest.mark.parametrize("packing", ["packed", "whole"])
def test_every_row_comes_once_in_an_epoch_and_resumes_exactly(made, packing):
    values = {"packing": packing, "sequence_length": 270, "loss": "all"}
    one, again, other = rows(made, values), rows(made, values), rows(made, values, seed=1)
    epochs = [[one.row(epoch * len(one) + place) for place in range(len(one))] for epoch in range(2)]
    orders = [[row.input_ids.tobytes() for row in epoch] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(one.made_row(n).input_ids.tobytes() for n in one.rows)
    assert orders[0] != orders[1]
    for ours, theirs in zip(epochs[1][2], again.row(len(one) + 2), strict=True):
        assert np.array_equal(ours, theirs)
    assert [other.row(place).input_ids.tobytes() for place in range(len(one))] != orders[0]


@given(length=st.integers(2, 600))
def test_a_key_is_apart_when_its_first_mention_does_not_end_in_the_row_that_asks_for_it(made, length):
    packed = rows(made, {"packing": "packed", "sequence_length": length, "loss": "all"}).prompts
    apart = packed.apart(length)
    for number, (start, _, asked, end) in enumerate(packed.places.tolist()):
        key = TOKENIZER.decode(packed.tokens[asked:end]).rstrip(".")
        before = TOKENIZER.decode(packed.tokens[max(start, asked // length * length) : asked])
        assert apart[number] == (f"{key[-1]}. Remember it." not in before)


@pytest.mark.parametrize("length", [200, 500, 1440])
def test_the_share_of_keys_apart_follows_from_their_distances(made, length):
    """Cuts fall anywhere: a key d tokens from its question is apart in d of T cases. Depths are uniform here."""
    values = {"prompts": {**PUBLISHED, "lengths": [1350], "number": 420}, "packing": "packed"}
    values["prompts"]["depths"] = list(range(0, 101, 5))
    spec = needles_recipe("unused", values).data
    packed = NeedleRows(spec, 0, TOKENIZER, directory=made / "long", segment_length=SEGMENT).prompts
    expected = (np.minimum(packed.asked - packed.told, length) / length).mean()
    assert abs(packed.apart(length).mean() - expected) < 0.07  # three standard errors
    filler = 1350 / len(CYCLE) * CYCLE_TOKENS
    uniform = filler / (2 * length) if filler < length else 1 - length / (2 * filler)
    assert abs(expected - uniform) < 0.12  # needle and question are tokens too


def test_intended_rows_are_those_of_the_passkey_task(made):
    single = rows(made, {"prompts": INTENDED, "sequence_length": 170})
    task = Passkey(PasskeySpec(min_length=140, max_length=170), TOKENIZER, segment_length=SEGMENT)
    for number in range(12):
        length, depth = (140, 170)[number % 2], (0.0, 0.5, 1.0)[number // 2 % 3]
        sample = task.sample(split="training", seed=0, index=number, length=length, depth=depth)
        row = single.made_row(number)
        assert row.input_ids[:length].tolist() == sample.input_ids.tolist()
        assert row.labels[:length].tolist() == sample.labels().tolist()
        assert not is_evaluation_key(np.array([int(sample.answer)]))[0]


def test_a_set_on_disk_gives_the_rows_that_it_was_generated_from(made, tmp_path, tokenizer):
    path = tmp_path / "set.jsonl"
    result = run(
        "data", "needles", path, "--form", "intended", "--lengths", "140,170", "--count", 12, "--tokenizer", tokenizer,
        "--segment-length", SEGMENT, "--row-length", 64,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "12 prompts of 140 to 170 tokens" in result.stdout
    read = list(stored_rows(StoredNeedles(source=str(path))))
    assert [row.num_tokens for row in read] == [140, 170] * 6
    grid = {**INTENDED, "depths": list(range(0, 101, 5))}
    spec = data(tokenizer, prompts=grid, sequence_length=170)
    direct = NeedleRows(spec, 0, TOKENIZER, directory=tmp_path / "a", segment_length=SEGMENT)
    spec = data(tokenizer, prompts={"kind": "stored", "source": str(path)}, sequence_length=170)
    stored = NeedleRows(spec, 0, TOKENIZER, directory=tmp_path / "b", segment_length=SEGMENT)
    assert stored.fingerprint == direct.fingerprint
    for ours, theirs in zip(stored.row(17), direct.row(17), strict=True):
        assert np.array_equal(ours, theirs)
    share = direct.prompts.apart(64).mean()
    assert f"{share:.1%} of the keys are told in one row" in result.stdout


@pytest.mark.parametrize("form", ["published", "intended"])
def test_prompts_to_evaluate_with_end_with_the_question(tmp_path, tokenizer, form):
    written = {}
    for split in ("training", "evaluation"):
        path = tmp_path / f"{split}.jsonl"
        words = ["--form", form, "--lengths", "300", "--count", 9, "--split", split, "--segment-length", SEGMENT]
        assert run("data", "needles", path, "--tokenizer", tokenizer, *words).exit_code == 0
        written[split] = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row["prompt"].rstrip(".").endswith(str(row["answer"])) for row in written["training"])
    assert all(row["prompt"].endswith("The pass key is ") for row in written["evaluation"])
    assert all(len(encode(row["prompt"])) == row["num_tokens"] for row in written["evaluation"])
    keys = [{row["answer"] for row in written[split]} for split in ("training", "evaluation")]
    assert keys[0].isdisjoint(keys[1]) is (form == "intended")


def test_the_command_refuses_bad_input(tmp_path, tokenizer):
    words = ["--tokenizer", tokenizer, "--segment-length", SEGMENT]
    assert "should be a .jsonl or .jsonl.gz file" in refused("data", "needles", tmp_path / "x.csv", *words)
    (tmp_path / "there.jsonl").touch()
    assert "is there already" in refused("data", "needles", tmp_path / "there.jsonl", *words)
    out = tmp_path / "new.jsonl"
    assert "--row-length" in refused("data", "needles", out, *words, "--row-length", 0)
    assert "whole numbers" in refused("data", "needles", out, *words, "--lengths", "1k")
    assert "number" in refused("data", "needles", out, *words, "--count", 0)
    assert "shorter than the task's fixed text" in refused("data", "needles", out, *words, "--lengths", "20")
    assert not out.exists()


# Recipes and runs


def test_a_recipe_survives_being_written_down(tokenizer):
    for prompts in (PUBLISHED, INTENDED, {"kind": "stored", "source": "a/b", "ends": "question"}):
        there = needles_recipe(tokenizer, {"prompts": prompts, "packing": "packed", "loss": "all"})
        again = parse(Recipe, json.loads(json.dumps(there.model_dump(mode="json"))), "recipe")
        assert again == there
        assert again.digest() == there.digest()
        assert row_length(there) == 96


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompts": INTENDED}, "sequence_length 96 is shorter than the longest prompts, 170 tokens"),
        ({"prompts": INTENDED, "sequence_length": 170, "end_of_text": True}, "longest prompts, 171 tokens"),
        ({"prompts": {"kind": "publisht", "lengths": [300]}}, "Did you mean 'published'"),
        ({"prompts": {"lengths": [300]}}, "one of stored, published, intended"),
        ({"prompts": {"kind": "published", "lengths": [300], "unit": "tokens"}}, "Did you mean 'units'"),
        ({"prompts": PUBLISHED, "packing": "cut"}, "unknown value 'cut' of 'data.packing'"),
        ({"prompts": PUBLISHED, "loss": "none"}, "unknown value 'none' of 'data.loss'"),
        ({"prompts": PUBLISHED, "tokenizer": None}, "data.tokenizer is needed"),
        ({"packing": "packed"}, "missing key 'data.prompts'"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tokenizer, values, said):
    with pytest.raises(InputError) as error:
        needles_recipe(tokenizer, values)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "documents"),
    [
        ({"prompts": PUBLISHED, "packing": "packed", "loss": "all"}, "carry"),
        ({"prompts": PUBLISHED, "packing": "packed", "loss": "all"}, "reset"),
        ({"prompts": INTENDED, "sequence_length": 170}, "reset"),
    ],
)
def test_three_updates(tokenizer, tmp_path, values, documents):
    there = needles_recipe(tokenizer, values, steps=3, warmup_steps=1)
    attention = there.model.attention.model_copy(update={"documents": documents})
    there = there.model_copy(update={"model": there.model.model_copy(update={"attention": attention})})
    checkpoint = train(there, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) for line in lines)
    source = batch_source(there, tmp_path / "run" / "data", init=None, segment_length=SEGMENT)
    assert read_json(tmp_path / "run" / "provenance.json")["data_fingerprint"] == source.rows.fingerprint
    assert checkpoint.name == "step-3"
    packed = values.get("packing") == "packed"
    assert (source.batch(0).model_documents() is not None) is packed
    assert source.batch(0).input_ids.shape == (2, 96 if packed else 170)


def test_packed_documents_are_the_models_to_reset_at(tokenizer, tmp_path):
    """With ``reset`` a token reads nothing of an earlier prompt in its row; with ``carry`` it does."""
    from palimpsest.training.state import model_config, new_model

    there = needles_recipe(tokenizer, {"prompts": PUBLISHED, "packing": "packed", "loss": "all"})
    batch = batch_source(there, tmp_path / "data", init=None, segment_length=SEGMENT).batch(0)
    row = int((batch.document_ids.amax(1) > 0).nonzero()[0, 0])
    ids, documents = batch.input_ids[row : row + 1], batch.document_ids[row : row + 1]
    changed = torch.where(documents == 0, (ids + 1) % 100, ids)
    for policy in ("carry", "reset"):
        attention = there.model.attention.model_copy(update={"documents": policy})
        spec = there.model.model_copy(update={"attention": attention})
        model = new_model(model_config(spec, 700), seed=0).eval()
        later = documents[0] > 0
        one, other = (model(each, document_ids=documents, use_cache=False).logits[0, later] for each in (ids, changed))
        assert torch.allclose(one, other, atol=1e-5) is (policy == "reset")


def test_info_describes_a_run_on_needles(tokenizer, tmp_path):
    path = tmp_path / "needles.yaml"
    there = needles_recipe(tokenizer, {"prompts": PUBLISHED, "packing": "packed"})
    write_json(path, there.model_dump(mode="json", exclude_none=True))
    said = dict(describe_recipe(path).rows)
    assert "6 updates of 4 rows: 2,304 tokens" in said["run"]


@pytest.mark.parametrize(("kind", "refuses"), [("full", True), ("segment_local", False)])
def test_rows_longer_than_the_positions_of_a_checkpoint_are_refused(tokenizer, tmp_path, kind, refuses):
    config = PalimpsestConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=700, max_position_embeddings=128,
        intermediate_size=32, attention={"pattern": [kind], "segment_length": SEGMENT},
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    long = data(tokenizer, prompts=PUBLISHED, sequence_length=129)
    require_positions(data(tokenizer, prompts=PUBLISHED, sequence_length=128), tmp_path)
    if refuses:
        with pytest.raises(InputError, match=r"Rows of 129 tokens .* are longer than the 128 positions"):
            require_positions(long, tmp_path)
        (tmp_path / "state.json").touch()  # one of our own runs
    require_positions(long, tmp_path)


@pytest.fixture(scope="module")
def joining():
    """A tokenizer with a token for a blank and a digit, and two tokens that could end a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<e>", "<f>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([f"is {number} is" for number in range(10)] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")


def test_the_tokens_of_a_written_prompt_are_counted_as_it_stands(joining, tmp_path):
    spec = PublishedNeedles(lengths=(100,), number=3)
    write_needles(tmp_path / "a.jsonl", spec, joining, split="evaluation", segment_length=8, row_length=8)
    for row in stored_rows(StoredNeedles(source=str(tmp_path / "a.jsonl"), ends="question")):
        assert row.num_tokens == len(joining.encode(row.prompt, add_special_tokens=False))


def test_prompts_are_closed_with_the_present_end_of_text(joining, tmp_path):
    spec = needles_recipe("unused", {"prompts": PUBLISHED, "sequence_length": 4000, "end_of_text": True}).data
    for token in ("<e>", "<f>"):
        joining.eos_token = token
        made = NeedleRows(spec, 0, joining, directory=tmp_path, segment_length=8)
        assert made.prompts.tokens[-1] == joining.eos_token_id
