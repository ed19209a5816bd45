"""What a training run leaves: its metrics, its cost, and where it came from."""

from palimpsest.records.base import Record
from palimpsest.records.origin import Origin


class LayerMetrics(Record):
    """State of one layer at one logged step.

    ``grad_norm`` is the norm of the gradient of all weights of the layer before clipping, ``attention_grad_norm`` and
    ``mlp_grad_norm`` those of its two parts without their norms (gates are part of the attention). ``gates``,
    ``memory_norm`` (Frobenius norm of M) and ``normaliser_min`` / ``normaliser_max`` (smallest and largest denominator
    of a read) have one value per head and are empty for layers and memories that have none; so have ``gate_bias``, the
    learned logits of the gates, and ``gate_bias_grad``, the gradient there.
    """

    layer: int
    kind: str
    grad_norm: float
    gates: tuple[float, ...] = ()
    memory_norm: tuple[float, ...] = ()
    normaliser_min: tuple[float, ...] = ()
    normaliser_max: tuple[float, ...] = ()
    attention_grad_norm: float | None = None
    mlp_grad_norm: float | None = None
    gate_bias: tuple[float, ...] = ()
    gate_bias_grad: tuple[float, ...] = ()


class StepRecord(Record):
    """One line of ``metrics.jsonl``: the optimizer step with this number has been taken (or skipped).

    ``loss`` is in nats per labelled token, before the update; ``tokens`` counts input tokens since the run began;
    ``row_length`` is how many a row of the update has.
    """

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gate_learning_rate: float
    grad_norm: float
    skipped: int
    seconds: float
    layers: tuple[LayerMetrics, ...] = ()
    row_length: int | None = None


class CostRecord(Record):
    """What one arm costs (``cost.json``): parameters, floating-point operations, bytes of state, seconds.

    ``state_bytes`` is the size of the cache after ``context`` tokens for one sequence, memory and open segment apart.
    """

    arm: str
    seed: int
    parameters: int
    flops_per_token: float
    training_tokens: int
    training_seconds: float
    context: int
    memory_bytes: int
    local_bytes: int


class Provenance(Origin):
    """Where a run came from (``provenance.json``).

    ``reference`` is a digest of the weights that preferences are measured against, None where nothing is.
    """

    recipe_sha256: str
    data_fingerprint: str
    seeds: dict[str, int]
    parameters: int
    flops: float
    started: str
    reference: str | None = None
