"""The model card: what a model is, costs and cannot do, said by the model itself."""

from collections.abc import Sequence
from typing import NamedTuple

import yaml
from huggingface_hub import ModelCard, ModelCardData

from palimpsest.attention.base import Facts
from palimpsest.attention.kinds import KINDS
from palimpsest.attention.sizes import Sizes
from palimpsest.models.comparison import layer_bytes
from palimpsest.models.modeling import PalimpsestForCausalLM


class CardFacts(NamedTuple):
    """What a card says that the model does not know.

    Attributes:
        title: the name of the model.
        license: the licence of the weights, by its identifier on the hub.
        base_model: the model that it was converted from, by its name on the hub.
        training: how it was trained, as pairs of a heading and a text.
    """

    title: str
    license: str = "apache-2.0"
    base_model: str | None = None
    training: tuple[tuple[str, str], ...] = ()


class Kept(NamedTuple):
    """Bytes that layers keep of one sequence: ``fixed`` whatever its length, ``open`` segment, ``growing`` a token."""

    fixed: int
    open: int
    growing: int


class Layers(NamedTuple):
    """Layers that attend alike: their numbers, what they are called, what they are like, and what each keeps."""

    numbers: list[int]
    name: str
    facts: Facts
    kept: Kept


def model_card(model: PalimpsestForCausalLM, facts: CardFacts, requirements: Sequence[str]) -> str:
    """Return the card, Markdown with YAML in front.

    Args:
        model: the model.
        facts: what the model does not know.
        requirements: what has to be installed to load the model without this package.
    """
    layers = kinds_of_layers(model)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=facts.license,
        base_model=facts.base_model,
        tags=["palimpsest", "long-context", *dict.fromkeys(group.name.split(" ")[0] for group in layers)],
    )
    sections = (
        f"# {facts.title}",
        _what(model, facts),
        _attention(model, layers),
        _loading(facts.title, requirements),
        _training(facts),
        _use(layers),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n").content


def kinds_of_layers(model: PalimpsestForCausalLM) -> list[Layers]:
    """Return the layers of a model, those that attend alike together."""
    spec, sizes = model.config.attention_spec, Sizes.of(model.config)
    numbers: dict[str, list[int]] = {}
    for number in range(model.config.num_hidden_layers):
        numbers.setdefault(spec.kind(number), []).append(number)
    return [
        Layers(
            group,
            spec.title(kind),
            KINDS[kind].facts,
            Kept(
                *layer_bytes(sizes, spec, kind, model.dtype), KINDS[kind].bytes_per_token(sizes, model.dtype.itemsize)
            ),
        )
        for kind, group in numbers.items()
    ]


def _what(model: PalimpsestForCausalLM, facts: CardFacts) -> str:
    config = model.config
    origin = "" if facts.base_model is None else f" It was converted from {facts.base_model}."
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"A causal language model of {model.num_parameters():,} parameters in {dtype}: "
        f"LLaMA's blocks, {config.num_hidden_layers} layers of width {config.hidden_size:,} with "
        f"{config.num_attention_heads} heads and a vocabulary of {config.vocab_size:,} tokens, around the attention "
        f"below.{origin}"
    )


def _attention(model: PalimpsestForCausalLM, layers: Sequence[Layers]) -> str:
    rows = [
        (
            ", ".join(map(str, group.numbers)),
            group.name,
            f"{group.kept.fixed:,}",
            f"{group.kept.open:,}",
            f"{group.kept.growing:,}",
            group.facts.reach,
        )
        for group in layers
    ]
    heads = ("layers", "attention", "bytes of state", "bytes of open segment", "bytes per token", "reach")
    fixed, growing = bytes_of_a_sequence(layers)
    more = f" and {growing:,} more for every token read" if growing else ", however long it is"
    block = yaml.safe_dump(model.config.attention_spec.model_dump(mode="json", exclude_none=True), sort_keys=False)
    return (
        f"## Attention\n\nOne sequence is kept in {fixed:,} bytes{more}. By layer:\n\n{_table(heads, rows)}\n\n"
        "N is the segment length and T the number of tokens read. In full, as the configuration has it:\n\n"
        f"```yaml\nattention:\n{_indented(block)}\n```"
    )


def bytes_of_a_sequence(layers: Sequence[Layers]) -> tuple[int, int]:
    """Return the bytes that all layers together keep of one sequence, and by how many they grow with every token."""
    fixed = sum(len(group.numbers) * (group.kept.fixed + group.kept.open) for group in layers)
    return fixed, sum(len(group.numbers) * group.kept.growing for group in layers)


def _loading(title: str, requirements: Sequence[str]) -> str:
    return f"""## How to load it

With the code that is beside the weights; read it before you trust it. It needs
{", ".join(f"`{needed}`" for needed in requirements)}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{title}", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("{title}", trust_remote_code=True)
prompt = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=32)[0]))
```

With the package (`pip install palimpsest-lm`), whose own classes are then used, and no trust is asked for:

```python
import palimpsest.models
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{title}")
```"""


def _training(facts: CardFacts) -> str:
    if not facts.training:
        return "## Training\n\nNothing is recorded of how this model was trained."
    return f"## Training\n\n{_table(('what', 'value'), facts.training)}"


def _use(layers: Sequence[Layers]) -> str:
    growing = [group.name for group in layers if group.kept.growing]
    bounded = [group.name for group in layers if not group.kept.growing]
    limits = [
        "No evaluation is part of this card: what the model can do is to be measured on the use it is meant for "
        "(`palimpsest eval` asks for keys told far back, `palimpsest probe` takes the memory away)."
    ]
    if bounded:
        limits.append(
            f"What {' and '.join(bounded)} layers keep does not grow with the text, so they forget: a long context "
            "that is accepted is not one that is remembered. What each memory forgets, and why, is in "
            "`docs/memories/` of the source of palimpsest."
        )
    if growing:
        limits.append(
            f"What {' and '.join(growing)} layers keep grows with every token; that sets the longest context."
        )
    limits.append(
        "What was read cannot be unread: there is no assisted decoding, and no continuous batching in a server."
    )
    return (
        "## Intended use and limits\n\nResearch on long contexts in bounded memory. Nothing in a checkpoint says that "
        "its model was made truthful or harmless.\n\n" + "\n".join(f"- {limit}" for limit in limits)
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    cells = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().split("\n"))
