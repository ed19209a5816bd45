"""The model: LLaMA's blocks around the attention layers of ``palimpsest.attention``."""

import os
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.generation.configuration_utils import GenerationConfig, GenerationMode
from transformers.generation.utils import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding

from palimpsest.attention.initial import HasInitialValues
from palimpsest.attention.kinds import KINDS
from palimpsest.attention.stream import Progress, Stream, describe
from palimpsest.errors import InputError
from palimpsest.memory.layout import document_numbers
from palimpsest.models.cache import PalimpsestCache
from palimpsest.models.configuration import PalimpsestConfig
from palimpsest.models.snapshot import Snapshot, Source, restore_snapshot, take_snapshot

IGNORED = -100
"""A label at which no loss is taken."""


@dataclass
class PalimpsestModelOutput(BaseModelOutputWithPast):
    """The hidden states and the cache, and ``auxiliary_loss``, the sum of the layers' own losses, if any has one."""

    auxiliary_loss: Tensor | None = None


@dataclass
class PalimpsestCausalLMOutput(CausalLMOutputWithPast):
    """Logits, loss and cache; ``loss`` holds the layers' own losses, which are also given as ``auxiliary_loss``."""

    auxiliary_loss: Tensor | None = None


class PalimpsestDecoderLayer(GradientCheckpointingLayer):
    """LLaMA's block: attention and MLP, each after a norm, each added to the residual stream."""

    def __init__(self, config: PalimpsestConfig, layer: int):
        super().__init__()
        spec = config.attention_spec
        self.self_attn = KINDS[spec.kind(layer)](config, spec, layer)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, stream: Stream, cache: object | None) -> tuple[Tensor, Tensor | None]:
        """Return ``[B, T, hidden]``, and the attention's own loss if it has one."""
        attended, loss = self.self_attn(self.input_layernorm(hidden), stream, cache)
        hidden = hidden + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), loss


class PalimpsestPreTrainedModel(PreTrainedModel):
    """What the model classes share: their configuration, and how new weights begin."""

    config: PalimpsestConfig
    config_class = PalimpsestConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["PalimpsestDecoderLayer"]  # noqa: RUF012 (as transformers declares it)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _is_stateful = True  # a memory cannot be rolled back: no assisted decoding

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a checkpoint as ``transformers`` does, but refuse one of ours in which weights are missing.

        transformers would make up what is missing, and a new gate looks like a trained one. A LLaMA checkpoint, which
        is loaded with ``attention={...}``, has no gates by nature: theirs begin as in a new model.

        Raises:
            InputError: a palimpsest checkpoint lacks weights.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs)
        model, report = cast(tuple[Self, dict[str, Any]], loaded)
        ours = any(name.startswith("Palimpsest") for name in model.config.architectures or ())
        if ours and report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"]))
            raise InputError(f"{pretrained_model_name_or_path} lacks the weights {missing}.")
        if cls.__module__.startswith("palimpsest."):  # the class of the package is saved without the code of an export
            vars(model.config).pop("auto_map", None)
        return cast(Self, loaded) if output_loading_info else model  # the pair that transformers promises no type for

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HasInitialValues):
            for name, value in module.initial_values().items():
                parameter = module.get_parameter(name)
                init.copy_(parameter, value.to(parameter).expand_as(parameter))


class PalimpsestModel(PalimpsestPreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: PalimpsestConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(PalimpsestDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.spec = config.attention_spec
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: PalimpsestCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> PalimpsestModelOutput:
        """Return the hidden states ``[B, T, hidden]``, the cache, and the layers' own losses.

        Args:
            input_ids: ``[B, T]``, or ``inputs_embeds`` ``[B, T, hidden]`` in its place.
            attention_mask: ``[B, T]`` or, after a cache of P columns, ``[B, P + T]``: 0 for padding, anywhere in a row.
            past_key_values: the cache to continue, updated in place.
            use_cache: whether to return a cache; by default the configuration's ``use_cache``, but not in training and
                not for packed documents.
            document_ids: ``[B, T]``, a change starts a new document (see ``documents`` in the attention block),
                negative ids are padding. Packed documents are whole rows: they neither follow a cache nor leave one.
            position_ids: ``[B, T]``; without cache, mask and ``document_ids`` a document starts where they do not go
                on from the token before (padding-free packing). Places are counted here, not taken from them.
            output_hidden_states: whether to return the hidden states before every layer and after the last norm.
            kwargs: what transformers passes to all models, and does not concern this one.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if document_ids is None and attention_mask is None and past_key_values is None:
            document_ids = _documents_of(position_ids, hidden)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and document_ids is None
        cache = PalimpsestCache(self.config) if use_cache and past_key_values is None else past_key_values
        self._check_cache(cache, document_ids)
        stream = self._stream(hidden, attention_mask, document_ids, cache)
        losses, before = [], []
        for layer, block in enumerate(self.layers):
            before.append(hidden)
            hidden, loss = block(hidden, stream, None if cache is None else cache.layers[layer])
            losses += [] if loss is None else [loss]
        if cache is not None:
            cache.advance(hidden.shape[1], stream.real)
        hidden = self.norm(hidden)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return PalimpsestModelOutput(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*before, hidden) if wanted else None,
            auxiliary_loss=torch.stack(losses).sum() if losses else None,
        )

    def _check_cache(self, cache: object | None, documents: Tensor | None) -> None:
        if cache is None:
            return
        if not isinstance(cache, PalimpsestCache):
            raise ValueError(f"past_key_values must be a PalimpsestCache, got {type(cache).__name__}")
        if cache.spec != self.spec or len(cache.layers) != len(self.layers):
            raise ValueError("past_key_values was made for another configuration")
        if documents is not None:
            raise ValueError("document_ids cannot go with a cache: a cached stream is one document per row")
        if self.gradient_checkpointing and self.training:
            raise ValueError("gradient checkpointing cannot go with a cache: recomputing a layer would write it twice")

    def _stream(
        self, hidden: Tensor, mask: Tensor | None, documents: Tensor | None, cache: PalimpsestCache | None
    ) -> Stream:
        """Describe the tokens of this pass."""
        batch, tokens, _ = hidden.shape
        spec = self.spec
        real = None if mask is None else mask[:, -tokens:].bool()
        if documents is not None:
            real = documents >= 0 if real is None else real & (documents >= 0)
        if real is not None and bool(real.all()):
            real = None
        documents = self._documents(documents if spec.documents == "reset" else None, real)
        progress = None if cache is None else Progress(cache.begin(batch, hidden.device))
        layout, fill, closed, positions = describe(
            documents, batch, tokens, spec.segment_length, progress, hidden.device
        )
        kinds = [KINDS[kind] for kind in set(spec.pattern)]
        places = torch.arange(max(kind.places(spec) for kind in kinds), device=hidden.device)[None]
        cos, sin = self.rotary_emb(hidden, places)
        return Stream(
            spec.segment_length,
            real,
            documents,
            layout,
            fill,
            closed,
            (cos[0], sin[0]),
            positions,
            self.rotary_emb(hidden, positions) if any(kind.rotates_by_document for kind in kinds) else None,
        )

    @staticmethod
    def _documents(documents: Tensor | None, real: Tensor | None) -> Tensor | None:
        """Number each row's documents, padding -1: ``[B, T]``, or None if all rows are one document without padding."""
        if documents is None:
            return None if real is None else torch.where(real, 0, -1)
        return document_numbers(documents if real is None else torch.where(real, documents, -1))


def _share(labels: Tensor, items: object) -> Tensor | float:
    """Return which part of a batch's labels these ``[B, T]`` are, if the number of its items is given; else 1."""
    if items is None:
        return 1.0
    return (labels[:, 1:] != IGNORED).sum().double() / torch.as_tensor(items, device=labels.device)


def _documents_of(positions: Tensor | None, hidden: Tensor) -> Tensor | None:
    """Return document ids ``[B, T]`` for positions that begin anew somewhere in a row; None if they never do."""
    if positions is None:
        return None
    starts = positions[:, 1:] != positions[:, :-1] + 1
    if not bool(starts.any()):
        return None
    return nn.functional.pad(starts.cumsum(1), (1, 0)).expand(hidden.shape[0], -1)


class PalimpsestForCausalLM(PalimpsestPreTrainedModel, GenerationMixin):
    """A causal language model on a bounded, compressive memory."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (as transformers declares it)

    def __init__(self, config: PalimpsestConfig):
        super().__init__(config)
        self.model = PalimpsestModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: PalimpsestCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: object,
    ) -> PalimpsestCausalLMOutput:
        """Return logits ``[B, T, vocabulary]`` (of the last ``logits_to_keep`` tokens, if given), loss and cache.

        ``labels`` ``[B, T]`` are the input ids, or -100 where no loss is taken; they are shifted here. The other
        arguments are those of ``PalimpsestModel``.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            document_ids=document_ids,
            position_ids=position_ids,
            output_hidden_states=output_hidden_states,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=kwargs.get("num_items_in_batch"),
            )
            if outputs.auxiliary_loss is not None:
                share = _share(labels, kwargs.get("num_items_in_batch"))
                loss = loss + outputs.auxiliary_loss * share
        return PalimpsestCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            auxiliary_loss=outputs.auxiliary_loss,
        )

    def snapshot(
        self, cache: PalimpsestCache, *, logits: Tensor | None = None, sources: tuple[Source, ...] = ()
    ) -> Snapshot:
        """Return what a cache of this model holds, to be saved; see ``take_snapshot``."""
        return take_snapshot(self, cache, logits=logits, sources=sources)

    def restore(self, snapshot: Snapshot | str | os.PathLike[str]) -> PalimpsestCache:
        """Return a cache that goes on where a snapshot, or one in a file, was taken; see ``restore_snapshot``."""
        return restore_snapshot(self, snapshot)

    def _prepare_cache_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride] (bool there, never used)
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict,
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Begin generation with our own cache (transformers would build one of keys and values that grows)."""
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = PalimpsestCache(self.config)
