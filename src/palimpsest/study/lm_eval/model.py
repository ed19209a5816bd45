"""Our checkpoints in lm-evaluation-harness: ``python -m palimpsest.study.lm_eval run --model palimpsest``.

What the harness's own Hugging Face class does is inherited: tokenisation, chat templates, stop sequences, several
processes. Departures: a context is read in chunks, so that memory does not grow with it where the model's state does
not; nothing is ever truncated; logits that are not numbers count as failures and are named.
"""

# lm-eval's decorators take the types away from its classes.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.data import load_tokenizer
from palimpsest.errors import InputError
from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.streaming import STREAM_TOKENS
from palimpsest.records import read_json
from palimpsest.study.lm_eval.scoring import Continuation, score_after, score_rows
from palimpsest.training import resolve_checkpoint
from palimpsest.training.checkpoint import sha256_of
from palimpsest.training.state import WEIGHTS

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase

UNLIMITED = 2**62
"""What the harness is told of a model that reads contexts of any length."""
SHARED_TOKENS = 128
"""From so many tokens on a context is read once for all its continuations, and not in one batch with others."""
NOT_A_NUMBER = (float("-inf"), False)

log = logging.getLogger(__name__)


class Request(NamedTuple):
    """A continuation to score; ``key`` is the pair of texts that it comes from, None for whole documents."""

    key: tuple[str, str] | None
    context: list[int]
    continuation: list[int]


@register_model("palimpsest")
class PalimpsestLM(HFLM):
    """A palimpsest checkpoint as a model of lm-evaluation-harness.

    Args:
        pretrained: a checkpoint, a run directory (its newest checkpoint is taken), a name on the hub, or a model.
        tokenizer: where the tokenizer is, if not beside the weights; a tokenizer, if ``pretrained`` is a model.
        batch_size: rows that are read together; ``auto`` is refused.
        max_batch_size: what the harness hands over with ``auto``; unused.
        device: ``cuda``, ``cuda:1``, ``cpu``; by default the first GPU if there is one.
        dtype: of the weights; ``auto`` leaves them as they were saved.
        max_length: longest context in tokens, continuation included. By default there is none for a model whose state
            is bounded, and ``max_position_embeddings`` for one with layers whose state grows with the context.
        chunk_tokens: tokens per pass over a long context.

    Attributes:
        nan_items: the items, as ``task:document``, whose logits were not all numbers, in the order they were met.

    Raises:
        InputError: ``pretrained`` is no checkpoint of ours, or ``batch_size`` is not a number.
    """

    AUTO_MODEL_CLASS = PalimpsestForCausalLM  # pyright: ignore[reportAssignmentType] (None there)

    def __init__(
        self,
        pretrained: str | PalimpsestForCausalLM,
        tokenizer: "str | PreTrainedTokenizerBase | None" = None,
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        max_length: int | None = None,
        chunk_tokens: int = STREAM_TOKENS,
    ) -> None:
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise InputError(f"batch_size is a number of rows for the model 'palimpsest', not {batch_size!r}.")
        if isinstance(pretrained, str):
            pretrained = checkpoint_of(pretrained)
            tokenizer = load_tokenizer(str(tokenizer or pretrained))
        super().__init__(
            pretrained=pretrained,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=int(batch_size),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=dtype,
        )
        if not isinstance(self.model, PalimpsestForCausalLM):
            raise InputError(f"{pretrained} is no palimpsest model; run it with --model hf.")
        self.model.generation_config.prefill_chunk_size = chunk_tokens
        self.chunk_tokens = chunk_tokens
        self.longest = max_length or (None if state_is_bounded(self.model.config) else _trained_length(self.model))
        self.nan_items: list[str] = []
        self._broken: set[tuple[int, ...]] = set()

    @property
    def max_length(self) -> int:
        """Longest context in tokens; ``UNLIMITED`` if there is none."""
        return self.longest or UNLIMITED

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-probability (nats) and greediness of each ``(context, continuation)``.

        Raises:
            InputError: a request is longer than ``max_length``, or a continuation has no token.
        """
        found = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return [
            self._failure(request) if answer[0] != answer[0] else answer
            for request, answer in zip(requests, found, strict=True)
        ]

    def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability (nats) of each whole text, in windows of ``max_length`` if there is one."""
        found = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return [
            self._failure(request)[0] if logprob != logprob else logprob
            for request, logprob in zip(requests, found, strict=True)
        ]

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Continue each context; a text whose logits are not numbers is empty.

        Raises:
            InputError: a context and what may follow it are longer than ``max_length``.
        """
        for request in requests if self.longest else []:
            given: tuple[Any, ...] = request.args
            room = normalize_gen_kwargs(given[1], self.max_gen_toks).get("max_gen_toks", 0)
            self._check_length(len(self._prompt(given[0])) + room, given[0])
        self._broken.clear()
        texts = super().generate_until(requests, disable_tqdm=disable_tqdm)
        for request in requests if self._broken else []:
            if self._prompt(request.args[0]) in self._broken:
                self._failure(request)
        return texts

    def get_model_info(self) -> dict[str, Any]:
        """Return what the results say of the model; nothing is asked of the hub."""
        weights = Path(self.pretrained if isinstance(self.pretrained, str) else "") / WEIGHTS
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(self.model.dtype),
            "model_sha": sha256_of(weights) if weights.is_file() else "",
            "attention": self.model.config.attention_spec.model_dump(mode="json"),
            "max_length": self.longest,
            "nan_items": list(self.nan_items),
        }

    def _loglikelihood_tokens(  # pyright: ignore[reportIncompatibleMethodOverride] (a tuple in place of ours there)
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Score token lists; one whose logits are not numbers has a log-probability that is not one."""
        asked = [Request(*request) for request in requests]
        for request in asked:
            context, continuation = request.key or ("", "")
            self._check_length(len(request.context) + len(request.continuation) - 1, context + continuation)
            if not request.continuation:
                raise InputError(f"The continuation {continuation!r} adds no token to its context.")
        answers = [Continuation(*NOT_A_NUMBER)] * len(asked)
        size = override_bs or int(self.batch_size)
        with tqdm(total=len(asked), disable=disable_tqdm or self.rank != 0, desc="loglikelihood") as bar:
            for places in self._groups(asked, size):
                for place, answer in zip(places, self._score([asked[place] for place in places], size), strict=True):
                    answers[place] = answer
                    if asked[place].key is not None and answer.logprob == answer.logprob:
                        self.cache_hook.add_partial("loglikelihood", asked[place].key or (), tuple(answer))
                bar.update(len(places))
        return [(answer.logprob, answer.greedy) for answer in answers]

    def _groups(self, asked: Sequence[Request], size: int) -> Iterator[list[int]]:
        """Yield the places of requests that are read together: all of one long context, or ``size`` of like length."""
        sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, request in enumerate(asked):
            sharing[tuple(request.context)].append(place)
        rest = []
        for context, places in sharing.items():
            if len(places) > 1 and len(context) >= SHARED_TOKENS:
                yield places
            else:
                rest += places
        rest.sort(key=lambda place: -len(asked[place].context) - len(asked[place].continuation))
        yield from (rest[start : start + size] for start in range(0, len(rest), size))

    def _score(self, group: Sequence[Request], size: int) -> list[Continuation]:
        context = group[0].context
        continuations = [request.continuation for request in group]
        if len(group) > 1 and len(context) >= SHARED_TOKENS and all(each.context == context for each in group):
            return score_after(self.model, context, continuations, batch=size, chunk_tokens=self.chunk_tokens)
        rows = [request.context + request.continuation for request in group]
        return score_rows(self.model, rows, list(map(len, continuations)), chunk_tokens=self.chunk_tokens)

    def _model_generate(
        self,
        context: Tensor,
        max_length: int,
        stop: list[str],
        **generation_kwargs: Any,  # those of the task, as lm-eval passes them on
    ) -> Tensor:
        watch = NanWatch(len(context))
        processors = LogitsProcessorList([watch])
        made = super()._model_generate(context, max_length, stop, logits_processor=processors, **generation_kwargs)
        real = generation_kwargs["attention_mask"].bool()
        for row in watch.rows.nonzero().flatten().tolist():
            made[row, context.shape[1] :] = self.eot_token_id
            self._broken.add(tuple(context[row][real[row]].tolist()))
        return made

    def _prompt(self, context: str) -> tuple[int, ...]:
        return tuple(self.tok_batch_encode([context])[0][0].tolist())

    def _check_length(self, read: int, text: str) -> None:
        if self.longest is not None and read > self.longest:
            raise InputError(
                f"The request '{text[:40]}...' reads {read} tokens, more than max_length {self.longest}, and nothing "
                "is cut off here; give a greater max_length in --model_args, or run tasks with shorter items."
            )

    def _failure(self, request: "Instance") -> tuple[float, bool]:
        """Note that an item met logits that are not numbers, and return the score of a failure."""
        name = f"{request.task_name}:{request.doc_id}"
        if name not in self.nan_items:
            self.nan_items.append(name)
            log.warning("%s: the model's logits are not numbers; it counts as a failure.", name)
        return NOT_A_NUMBER


class NanWatch(LogitsProcessor):
    """Notes in ``rows`` ``[B]`` which rows met logits that are not numbers, and lets generation go on without them."""

    def __init__(self, batch: int) -> None:
        self.rows = torch.zeros(batch, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores ``[B, vocabulary]``, zero in rows with one that is not a number."""
        broken = scores.isnan().any(-1)
        self.rows |= broken.cpu()
        return scores.where(~broken[:, None], 0.0)


def checkpoint_of(path: str) -> str:
    """Return the checkpoint that a path names, the newest of a run directory; a name on the hub as it is.

    Raises:
        InputError: there is none, or it is a model of another kind.
    """
    if not Path(path).is_dir():
        return path
    directory = resolve_checkpoint(Path(path))
    kind = read_json(directory / "config.json").get("model_type")
    if kind != PalimpsestConfig.model_type:
        raise InputError(
            f"{path} is a model of type '{kind}', not '{PalimpsestConfig.model_type}'; run it with --model hf, or "
            "convert it first (palimpsest convert)."
        )
    return str(directory)


def state_is_bounded(config: PalimpsestConfig) -> bool:
    """Tell whether the state of a model stays the same size however long the context is."""
    sizes = Sizes.of(config)
    return all(KINDS[kind].bytes_per_token(sizes, 1) == 0 for kind in config.attention_spec.pattern)


def _trained_length(model: PalimpsestForCausalLM) -> int:
    return int(model.config.max_position_embeddings)
