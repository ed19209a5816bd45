"""What a layer keeps between passes: a state of bounded size, and the segment that is still open.

A pass replaces tensors and never changes one in place, so that copies of a cache may share them.
"""

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from palimpsest.memory import state_bytes

STATE = "state."
"""Prefix of the leaves of a state among the tensors of a layer."""


class StateCacheLayer(CacheLayerMixin):
    """The state of one layer: a NamedTuple whose leaves have the batch on their first axis.

    Attributes:
        state: the state; None before the first token, or if the layer has none.
        state_type: the class of the state, None if the layer has none.
    """

    supports_early_init = False
    is_croppable = False

    def __init__(self, state_type: type[tuple] | None) -> None:
        super().__init__()
        self.state_type = state_type
        self.state: tuple | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the layer holds, by name; ``load`` takes it back."""
        if self.state is None:
            return {}
        names = self.state._fields  # pyright: ignore[reportAttributeAccessIssue] (a NamedTuple, typed as any tuple)
        return {f"{STATE}{name}": leaf for name, leaf in zip(names, self.state, strict=True)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Hold these tensors, named as ``tensors`` names them.

        Raises:
            ValueError: a tensor is missing, or there is one that the layer has no place for.
        """
        leaves = {name.removeprefix(STATE): x for name, x in tensors.items() if name.startswith(STATE)}
        fields = () if self.state_type is None else self.state_type._fields  # pyright: ignore[reportAttributeAccessIssue]
        others = set(tensors) - {f"{STATE}{name}" for name in leaves}
        if others or (leaves and set(leaves) != set(fields)):
            raise ValueError(f"expected the tensors {[f'{STATE}{name}' for name in fields]}, got {sorted(tensors)}")
        self.state = self.state_type(**leaves) if leaves and self.state_type is not None else None
        self.is_initialized = bool(tensors)

    def hold(self, state: tuple) -> None:
        """Hold a state, and not the states of all segments of a pass, out of which it may have been cut."""
        own = (x if x.untyped_storage().nbytes() == x.nbytes else x.clone() for x in state)
        self.state, self.is_initialized = type(state)(*own), True

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of the state, and of the keys and values of the open segment."""
        return 0 if self.state is None else state_bytes(self.state), 0

    def reset(self) -> None:
        """Forget everything."""
        self.load({})

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for several return sequences."""
        held = self.tensors()
        self.load({name: x.repeat_interleave(repeats, 0) for name, x in held.items()})

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows, in this order."""
        held = self.tensors()
        self.load({name: x.index_select(0, indices.to(x.device)) for name, x in held.items()})

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the layer is filled by the attention that owns it."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Refuse: only the attention that owns this layer knows what becomes of a token."""
        raise NotImplementedError("a state is written by its own attention layer")

    def get_seq_length(self) -> int:
        """Return 0: a state does not know; ``PalimpsestCache`` counts."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys a query can meet, and where they start."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1


class SegmentCacheLayer(StateCacheLayer):
    """The open segment, un-rotated, beside the state of the segments before it.

    Attributes:
        keys: ``[B, H_kv, N, D]``, zero in slots that are not filled yet; None before the first token.
        values: likewise.
        strength: ``[B, H, N]``, with which the tokens of the open segment will be written; None if all are alike.
    """

    def __init__(self, state_type: type[tuple] | None = None) -> None:
        super().__init__(state_type)
        self.strength: Tensor | None = None

    def open(self, k: Tensor, v: Tensor, segment_length: int) -> tuple[Tensor, Tensor]:
        """Return the open segment, empty at first, for new keys and values ``[B, H_kv, T, D]``."""
        if self.keys is None or self.values is None:
            shape = (k.shape[0], k.shape[1], segment_length)
            return k.new_zeros(*shape, k.shape[-1]), v.new_zeros(*shape, v.shape[-1])
        return self.keys, self.values

    def open_strength(self, strength: Tensor, segment_length: int) -> Tensor:
        """Return the strengths of the open segment, zero at first, for new ones ``[B, H, T]``."""
        return strength.new_zeros(*strength.shape[:2], segment_length) if self.strength is None else self.strength

    def store(self, keys: Tensor, values: Tensor, strength: Tensor | None = None) -> None:
        """Keep the open segment."""
        self.keys, self.values, self.strength, self.is_initialized = keys, values, strength, True

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the layer holds, by name."""
        opened = {"keys": self.keys, "values": self.values, "strength": self.strength}
        return {name: x for name, x in opened.items() if x is not None} | super().tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Hold these tensors; see ``StateCacheLayer.load``."""
        opened = {name: tensors.get(name) for name in ("keys", "values", "strength")}
        super().load({name: x for name, x in tensors.items() if name not in opened})
        self.keys, self.values, self.strength = opened["keys"], opened["values"], opened["strength"]
        self.is_initialized = bool(tensors)

    def bytes(self) -> tuple[int, int]:
        """Return the bytes of the state, and of the open segment."""
        opened = (self.keys, self.values, self.strength)
        return super().bytes()[0], sum(x.numel() * x.element_size() for x in opened if x is not None)
