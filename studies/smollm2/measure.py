"""What is measured of a model: is it the original inside a segment, its loss by position, its gates, its text."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from palimpsest.models import PalimpsestForCausalLM
from palimpsest.probes import INTERVENTIONS, memory_layers
from palimpsest.records import PositionLossRecord, Record

Model = LlamaForCausalLM | PalimpsestForCausalLM
QUESTION = "What is the purpose of the State of the Union address? Answer in two sentences."
WRITTEN_TOKENS = 60


class Document(NamedTuple):
    """The beginning of a held-out document, ``[T]``."""

    name: str
    tokens: np.ndarray


class Exactness(Record):
    """One document's first segment, read by the original and by a converted model.

    ``largest_difference`` is that of any two logits; perplexities are of the predicted tokens 1 .. ``tokens`` - 1.
    """

    document_id: str
    tokens: int
    original_perplexity: float
    converted_perplexity: float
    largest_difference: float


class Text(Record):
    """What a model writes greedily after a prompt of so many tokens."""

    prompt: str
    prompt_tokens: int
    written: str


class Measured(Record):
    """One model at one time; ``gates`` are per layer and head, empty for a model that has none."""

    model: str
    seed: int | None
    state: str
    exactness: tuple[Exactness, ...] = ()
    losses: tuple[PositionLossRecord, ...] = ()
    gates: tuple[tuple[float, ...], ...] = ()
    texts: tuple[Text, ...] = ()


class Subject(NamedTuple):
    """A model under test and the names that its records carry."""

    model: Model
    name: str
    seed: int | None
    state: str


@torch.inference_mode()
def measure(
    subject: Subject,
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    segment_length: int,
    original: LlamaForCausalLM | None = None,
    interventions: Sequence[str] = ("none",),
) -> Measured:
    """Measure a model; against ``original``, where it is given, also whether it is the same inside a segment."""
    model = subject.model.eval()
    exact = () if original is None else exactness(model, original, documents, segment_length)
    losses = tuple(
        record
        for intervention in interventions
        for document in documents
        for record in position_losses(subject, document, segment_length, intervention)
    )
    texts = tuple(write(model, tokenizer, *prompt) for prompt in prompts(tokenizer, documents[0], segment_length))
    return Measured(
        model=subject.name,
        seed=subject.seed,
        state=subject.state,
        exactness=exact,
        losses=losses,
        gates=gates(model),
        texts=texts,
    )


def exactness(
    model: Model, original: LlamaForCausalLM, documents: Sequence[Document], segment_length: int
) -> tuple[Exactness, ...]:
    """Compare all logits of the first segment of every document."""
    found = []
    for document in documents:
        tokens = torch.from_numpy(document.tokens[:segment_length])[None].to(model.device)
        expected, got = original(tokens, use_cache=False).logits, model(tokens, use_cache=False).logits
        found.append(
            Exactness(
                document_id=document.name,
                tokens=tokens.shape[1],
                original_perplexity=math.exp(float(_nll(expected, tokens).mean())),
                converted_perplexity=math.exp(float(_nll(got, tokens).mean())),
                largest_difference=float((got - expected).abs().max()),
            )
        )
    return tuple(found)


def ranges(length: int, segment_length: int) -> list[tuple[int, int]]:
    """Return ranges of predicted positions: those that the first segment predicts, then doubling."""
    edges = [1, segment_length + 1]
    while edges[-1] - 1 < length - 1:
        edges.append(min(2 * (edges[-1] - 1), length - 1) + 1)
    return list(pairwise(edges))


def position_losses(
    subject: Subject, document: Document, segment_length: int, intervention: str
) -> Iterator[PositionLossRecord]:
    """Yield the loss of a document by ranges of positions, read in one pass."""
    tokens = torch.from_numpy(document.tokens)[None].to(subject.model.device)
    with INTERVENTIONS[intervention](subject.model):
        nll = _nll(subject.model(tokens, use_cache=False).logits, tokens)
    for start, end in ranges(len(document.tokens), segment_length):
        yield PositionLossRecord(
            arm=subject.name,
            seed=-1 if subject.seed is None else subject.seed,
            checkpoint=subject.state,
            intervention=intervention,
            document_id=document.name,
            position_start=start,
            position_end=end,
            nll=float(nll[start - 1 : end - 1].sum()),
            tokens=end - start,
        )


def _nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the nats of every predicted token, ``[T - 1]``."""
    return cross_entropy(logits[0, :-1].float(), tokens[0, 1:], reduction="none").double()


def gates(model: Model) -> tuple[tuple[float, ...], ...]:
    """Return the gates of all memory layers, by layer and head; none are computed from tokens here."""
    return tuple(tuple(layer.gate.values(layer.gate.bias.float()).tolist()) for layer in memory_layers(model))


def prompts(
    tokenizer: PreTrainedTokenizerBase, document: Document, segment_length: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tokens of two prompts: a question inside a segment, and a document of two and a half."""
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    yield QUESTION, tokenizer(str(chat), add_special_tokens=False, return_tensors="pt").input_ids
    length = 5 * segment_length // 2
    yield f"the first {length} tokens of {document.name}", torch.from_numpy(document.tokens[:length])[None]


def write(model: Model, tokenizer: PreTrainedTokenizerBase, name: str, prompt: Tensor) -> Text:
    """Continue a prompt greedily."""
    prompt = prompt.to(model.device)
    whole = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=WRITTEN_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    written = tokenizer.decode(whole[0, prompt.shape[1] :], skip_special_tokens=True)
    return Text(prompt=name, prompt_tokens=prompt.shape[1], written=str(written))
