"""The training loop, for pretraining and fine-tuning alike.

One update: the gradient of the mean loss over all labelled tokens of the batch, in however many micro-batches it is
computed; clipped; skipped if anything in it is not finite. All that an update needs is the state after the one before
it and its own number, so that a run can stop anywhere and continue to the same bits.
"""

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from palimpsest.data import IGNORED
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestCache, PalimpsestForCausalLM
from palimpsest.records import Provenance, write_json
from palimpsest.training.checkpoint import Checkpoints, disk_full_as_input_error, resolve_checkpoint
from palimpsest.training.console import progress_bar, stop_on_signals
from palimpsest.training.course import Course
from palimpsest.training.data import Batch, BatchSource, batch_source
from palimpsest.training.metrics import MetricsLog, layer_metrics
from palimpsest.training.optimizer import build_optimizer, set_learning_rates
from palimpsest.training.provenance import provenance
from palimpsest.training.recipe import Recipe, truncation_fault
from palimpsest.training.run import CHECKPOINTS, DATA, METRICS, PROVENANCE, claim
from palimpsest.training.state import (
    Learner,
    Progress,
    model_config,
    new_model,
    pretrained_model,
    read_checkpoint,
)
from palimpsest.training.truncation import Passage, cut, longest_stream, passages, whole

logger = logging.getLogger(__name__)


def train(recipe: Recipe, run_dir: Path | str, *, progress: bool = False) -> Path:
    """Train by a recipe, or continue where an earlier call with it was interrupted, and return the final checkpoint.

    On the CPU in float32 with the same number of threads, the final weights are the same bits whether and wherever the
    run was interrupted. SIGINT and SIGTERM finish the update, save, and exit; a run that is finished is left as it is.

    Args:
        recipe: what to train, on what.
        run_dir: the directory of the run, new, empty or of this recipe.
        progress: whether to show a progress bar, if standard error is a terminal.

    Raises:
        InputError: something in the recipe or in what it names is wrong, or the disk is full.
        TrainingError: too many updates in a row were not finite.
        Interrupted: a signal asked for a stop.
    """
    run_dir = Path(run_dir)
    with disk_full_as_input_error(run_dir), claim(run_dir, recipe):
        checkpoints = Checkpoints(run_dir / CHECKPOINTS, recipe.training.keep_checkpoints)
        newest = checkpoints.newest_valid()
        checkpoints.begin_after(0 if newest is None else newest.step)
        if newest is not None and newest.step == recipe.training.steps:
            return newest.path
        run = _open(recipe, run_dir, None if newest is None else newest.path)
        with (
            stop_on_signals() as request,
            progress_bar(recipe.name, recipe.training.steps, run.course.progress, wanted=progress) as report,
        ):
            while run.course.progress.step < recipe.training.steps:
                loss = run.advance()
                report(run.course.progress, loss)
                if request.signum is not None:
                    run.course.stop(request.signum)
        return run.course.save()


class _Run:
    """A run whose updates are made of the rows of a source."""

    def __init__(self, source: BatchSource, course: Course) -> None:
        self.source = source
        self.course = course

    def advance(self) -> float:
        """Take or skip one update, log and save where that is due, and return the loss.

        Raises:
            InputError: the disk is full.
            TrainingError: too many updates in a row were not finite.
        """
        course = self.course
        training, (model, optimizer), step = course.training, course.learner, course.progress.step
        rates = set_learning_rates(optimizer, step, training)
        batches = [self.source.batch(step, micro) for micro in range(training.accumulation)]
        loss = accumulate_gradients(
            model,
            batches,
            bfloat16=training.precision == "bfloat16",
            segments=training.backpropagate_segments,
        )
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        taken = math.isfinite(loss) and math.isfinite(norm)
        course.count(sum(batch.tokens for batch in batches), taken=taken)
        if taken:
            layers = layer_metrics(model, batches[0].to(model.device)) if course.is_logged else None
            nn.utils.clip_grads_with_norm_(model.parameters(), training.clip_norm, norm)
            optimizer.step()
            if layers is not None:
                course.note(loss, rates, float(norm), layers, batches[0].input_ids.shape[1])
        optimizer.zero_grad()
        if not taken:
            course.skip(loss, float(norm))
        course.save_if_due()
        return loss


def accumulate_gradients(
    model: PalimpsestForCausalLM, batches: list[Batch], *, bfloat16: bool = False, segments: int | None = None
) -> float:
    """Add to the parameters' gradients that of the mean loss over a whole batch, and return that loss.

    Losses of the layers themselves are means over rows: they add to the gradient, and not to the loss that is returned,
    which is to be compared with that of other models.

    Args:
        model: the model, on its device.
        batches: the micro-batches.
        bfloat16: compute under autocast; weights and gradients stay float32.
        segments: through how many segments gradients flow (see ``palimpsest.training.truncation``); None: all.

    Returns:
        Nats per labelled token, each weighted as its row is.
    """
    total = sum(float((batch.weights[:, None] * (batch.labels[:, 1:] != IGNORED)).sum()) for batch in batches)
    rows = sum(len(batch.input_ids) for batch in batches)
    losses = []
    for batch in batches:
        cache: PalimpsestCache | None = None
        for passage in passages_of(model, batch, segments):
            if passage.begins:
                cache = PalimpsestCache(model.config) if passage.goes_on else None
            # a part without a label is only read
            learns = cache is None or bool((passage.targets != IGNORED).any())
            with (
                torch.set_grad_enabled(learns),
                torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16),
            ):
                nats, auxiliary = weighted_loss(model, passage.to(model.device), cache)
            loss = nats / total
            losses.append(loss.detach())
            if auxiliary is not None:
                loss = loss + auxiliary * (len(batch.input_ids) / rows)
            if learns:
                loss.backward()
            if cache is not None and passage.goes_on:
                cut(cache, passage.goes_on)
    return float(torch.stack(losses).sum())


def passages_of(model: PalimpsestForCausalLM, batch: Batch, segments: int | None) -> Iterable[Passage]:
    """Return what a micro-batch is processed in: all of it at once, unless a stream has more segments than that."""
    spec = model.config.attention_spec
    reset = spec.documents == "reset"
    if segments is not None and longest_stream(batch, reset=reset) > segments * spec.segment_length:
        return passages(batch, segments * spec.segment_length, reset=reset)
    # padding has no label, but a layer's own loss is of all tokens
    return [whole(batch, batch.document_ids if spec.has_own_loss else batch.model_documents())]


def weighted_loss(
    model: PalimpsestForCausalLM, passage: Passage, cache: PalimpsestCache | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the weighted sum of the negative log-likelihoods of all labelled tokens, in nats, and the layers' losses.

    The vocabulary is computed only where there is a label, which is the same loss: in a fine-tuning batch few have one.
    The losses of the layers themselves are a mean over the rows of the batch; None if no layer has one. ``cache`` is
    what the rows go on from, updated; None if they neither go on from anything nor will be gone on from.
    """
    outputs = model.model(
        input_ids=passage.input_ids,
        document_ids=passage.document_ids,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    targets = passage.targets.flatten()
    places = (targets != IGNORED).nonzero()[:, 0]
    logits = model.lm_head(outputs.last_hidden_state.flatten(0, 1).index_select(0, places))
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(exact, targets[places], reduction="none")
    return (losses * passage.weights.flatten()[places]).sum(), outputs.auxiliary_loss


def recompute_activations(model: PalimpsestForCausalLM) -> None:
    """Recompute activations in the backward pass instead of keeping them."""
    # transformers renamed the method; where both exist the earlier name is deprecated
    newer = hasattr(model, "activation_checkpointing_enable")
    enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _open(recipe: Recipe, run_dir: Path, resume: Path | None) -> _Run:
    """Bring a run to where it was, or to its beginning.

    Raises:
        InputError: something that the recipe names is wrong or has changed since the run began.
    """
    init = resume or (None if recipe.init is None else resolve_checkpoint(recipe.init))
    if init is None:
        assert recipe.model is not None  # the schema sees to it
        source = batch_source(recipe, run_dir / DATA, init=None, segment_length=recipe.model.attention.segment_length)
        model = new_model(model_config(recipe.model, source.vocab_size, source.tokenizer), recipe.seed)
    else:
        model = pretrained_model(init)
        fault = truncation_fault(model.config.attention_spec)
        if recipe.training.backpropagate_segments is not None and fault is not None:
            raise InputError(f"{init}: {fault}.")
        segment_length = model.config.attention_spec.segment_length
        source = batch_source(recipe, run_dir / DATA, init=init, segment_length=segment_length)
        _require_vocabulary(model, source, init)
    nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")  # transformers' own loses its signature
    model.train()
    if recipe.training.gradient_checkpointing:
        recompute_activations(model)
    learner = Learner(model, build_optimizer(model, recipe.training))
    begin = Progress() if resume is None else read_checkpoint(resume, learner)
    _record_origin(recipe, learner.model, source, run_dir / PROVENANCE)
    MetricsLog(run_dir / METRICS).rewind(begin.step)
    return _Run(source, Course(recipe.training, learner, source.tokenizer, begin, run_dir))


def _require_vocabulary(model: PalimpsestForCausalLM, source: BatchSource, init: Path) -> None:
    if model.config.vocab_size < source.vocab_size:
        raise InputError(
            f"The model of {init} has {model.config.vocab_size} tokens, but the tokenizer of the data "
            f"{source.vocab_size}; use data prepared with the tokenizer of that model."
        )


def _record_origin(recipe: Recipe, model: PalimpsestForCausalLM, source: BatchSource, path: Path) -> None:
    """Write the provenance of a run that begins; of one that continues, check that its data are still the same."""
    if not path.exists():
        write_json(path, provenance(recipe, model, source))
        return
    try:
        there = Provenance.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is damaged; delete it, and the next call writes it anew.") from error
    if there.data_fingerprint != source.rows.fingerprint:
        raise InputError(
            f"The data of {path.parent} have changed since the run began (fingerprint {source.rows.fingerprint[:12]}, "
            f"then {there.data_fingerprint[:12]}); restore them, or choose another run directory."
        )
