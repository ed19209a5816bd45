"""What the heads of a trained model do with their memories, and what states cost."""

from palimpsest.records.base import Record


class ProfileRecord(Record):
    """What one head with a gate does on one document (``profile.jsonl``); None where a kind of layer has no such thing.

    The memory is that before the last segment of the document, where it is fullest while still being read. Means are
    over the tokens after the first segment. ``palimpsest.probes`` defines what is measured.

    Attributes:
        tokens: read of the document.
        layers: of the model; ``layer`` counts from 0.
        memory: the kind of memory, with ``features``.
        state_bytes: bytes that the head holds.
        gate: the mean gate; ``gate_initial`` is that before training, ``gate_shift`` how far its logit has moved.
        memory_output: mean length of what the memory adds to the residual stream; ``local_output`` of local attention.
        rho: memory_output / (memory_output + local_output).
        read_norm: mean length of a read, before the gate.
        write_strength: mean strength w of the tokens that were written; ``load`` is the sum of w^2.
        memory_norm: Frobenius norm of M; ``effective_rank`` of M is exp of the entropy of its singular values.
        denominator_min: the smallest number that a read divides by; ``denominator_max`` the largest.
        width: F, the number of features of a key.
        key_dimension: d_eff of the mapped keys; ``common_mode`` is kappa.
        n50: predicted pairs of which half are recalled; ``n50_common_mode`` if the common mode is in the way.
        effect: rise of the loss in nats per token under an intervention on this head alone, ``intervention``.
    """

    arm: str
    seed: int
    checkpoint: str
    document_id: str
    tokens: int
    segment_length: int
    layer: int
    layers: int
    head: int
    kind: str
    memory: str | None
    features: str | None
    state_bytes: int
    gate: float
    gate_initial: float
    gate_shift: float
    memory_output: float
    local_output: float
    rho: float
    read_norm: float
    write_strength: float | None = None
    load: float | None = None
    memory_norm: float | None = None
    effective_rank: float | None = None
    denominator_min: float | None = None
    denominator_max: float | None = None
    width: int | None = None
    key_dimension: float | None = None
    common_mode: float | None = None
    n50: float | None = None
    n50_common_mode: float | None = None
    intervention: str | None = None
    effect: float | None = None


class EffectRecord(Record):
    """What it costs a model to read another document's memory in one head alone (``effects.jsonl``).

    ``effect`` has one number per document: the mean rise of the loss in nats per token, after the first segment.
    """

    arm: str
    seed: int
    checkpoint: str
    layer: int
    head: int
    gate: float
    rho: float
    effect: tuple[float, ...]


class StateCostRecord(Record):
    """What one sequence keeps after ``context`` tokens, and what the next tokens take (``cost.jsonl``)."""

    arm: str
    seed: int
    context: int
    memory_bytes: int
    local_bytes: int
    seconds_per_token: float
    flops_per_token: float
    parameters: int
