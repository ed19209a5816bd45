"""TRL's losses on models with a memory, against ours and against float64: chats, preferences, and whole updates."""

import copy

import pytest
import torch
import torch.nn.functional as F

from alignment_case import recipe, recipe_values, save_base, tasks_data
from palimpsest.data import load_tokenizer
from palimpsest.schema import parse
from palimpsest.testing import assert_close
from palimpsest.training import Recipe, resolve_checkpoint, train
from palimpsest.training.alignment import align
from palimpsest.training.alignment.rows import alignment_rows
from palimpsest.training.alignment.trainers import Upcoming, build_trainer
from palimpsest.training.optimizer import build_optimizer
from palimpsest.training.state import pretrained_model

BETA = 0.1
KINDS = ("linear", "delta", "ridge")


class Heard:
    """Listens, and keeps nothing."""

    def micro_batch(self, loss, tokens):
        pass

    def means(self, named):
        pass


def trainer_of(folder, made):
    """Return a trainer, the rows of its first batch, and copies of its model and its reference in float64."""
    model, tokenizer = pretrained_model(made.init), load_tokenizer(made.init)
    rows = alignment_rows(made, tokenizer, segment_length=16)
    reference = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as after some training: else all rewards are zero
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    exact = copy.deepcopy(model).double(), copy.deepcopy(reference).double()
    size = made.training.batch_size
    upcoming = Upcoming(rows, 0, size)
    trainer = build_trainer(
        made, model, lambda: reference, build_optimizer(model, made.training), tokenizer, upcoming, folder
    )
    trainer.listener = Heard()
    return trainer, [rows.row(index) for index in range(size)], exact


def loss_of(trainer):
    (batch,) = trainer.get_train_dataloader()
    assert bool((batch["attention_mask"] == 0).any())  # rows of unequal length, one after the other
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss


def log_probabilities(model, ids):
    """Return the log-probability of every token but the first, in one row on its own: ``[T - 1]``."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / request.param, kind=request.param)


def test_the_loss_on_chats_is_the_cross_entropy_of_what_the_assistant_says(base, tmp_path):
    made = recipe(base, data=tasks_data(questions=2), steps=1)
    trainer, rows, (exact, _) = trainer_of(tmp_path, made)
    loss = loss_of(trainer)
    terms = []
    for row in rows:
        assert len(row["input_ids"]) > 2 * 16
        said = torch.tensor(row["labels"][1:]) != -100
        assert int(said.sum()) == 2
        terms.append(-log_probabilities(exact, row["input_ids"])[said])
    oracle = torch.cat(terms).mean()
    oracle.backward()
    assert_close("loss", loss.detach(), oracle.detach())
    _gradients_agree(trainer.model, exact)


def test_the_loss_on_preferences_is_that_of_the_paper(base, tmp_path):
    made = recipe(base, {"kind": "dpo", "beta": BETA}, steps=1)
    trainer, rows, (exact, reference) = trainer_of(tmp_path, made)
    loss = loss_of(trainer)
    terms = []
    for row in rows:
        assert len(row["prompt_ids"]) > 2 * 16
        rewards = []
        for answer in (row["chosen_ids"], row["rejected_ids"]):
            ids = row["prompt_ids"] + answer
            with torch.no_grad():
                before = log_probabilities(reference, ids)[-len(answer) :].sum()
            rewards.append(BETA * (log_probabilities(exact, ids)[-len(answer) :].sum() - before))
        terms.append(-F.logsigmoid(rewards[0] - rewards[1]))
    oracle = torch.stack(terms).mean()
    oracle.backward()
    assert abs(float(oracle.detach()) - 0.6931) > 1e-3  # ln 2 would say that nothing was compared
    assert_close("loss", loss.detach(), oracle.detach())
    _gradients_agree(trainer.model, exact)


def _gradients_agree(model, exact):
    wanted = dict(exact.named_parameters())
    largest = max(float(parameter.grad.norm()) for parameter in wanted.values())
    for name, parameter in model.named_parameters():
        error = float((parameter.grad.double() - wanted[name].grad).norm())
        assert error < 1e-5 * largest, f"{name}: {error / largest:.2e} of the largest gradient"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fine_tuning_on_tasks_ends_where_our_own_training_ends(tmp_path, accumulation):
    base = save_base(tmp_path / "base")
    values = recipe_values(base, data=tasks_data(questions=2), accumulation=accumulation, clip_norm=0.5)
    aligned = pretrained_model(align(recipe(base, data=values["data"], **values["training"]), tmp_path / "trl"))
    ours = {key: values[key] for key in ("name", "seed", "init", "data", "training")}
    trained = pretrained_model(resolve_checkpoint(train(parse(Recipe, ours, "recipe"), tmp_path / "ours")))
    start = pretrained_model(base).state_dict()
    for name, weight in trained.state_dict().items():
        moved = float((weight - start[name]).norm())
        assert float((aligned.state_dict()[name] - weight).norm()) < 1e-3 * moved, name
