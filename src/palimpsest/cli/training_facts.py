"""How a checkpoint was trained, in words, from the files that its run left beside it."""

from pathlib import Path

from palimpsest.data import CorpusSpec
from palimpsest.records import Provenance, read_json
from palimpsest.schema import parse
from palimpsest.training import MixtureData, PasskeyData, Recipe, load_recipe
from palimpsest.training.recipe import DataSpec, NeedlesData, StoriesSpec, SummariesData, TasksData
from palimpsest.training.run import CHECKPOINTS, PROVENANCE, RECIPE
from palimpsest.training.state import STATE, Progress

Row = tuple[str, str]


def training_facts(checkpoint: Path) -> tuple[Row, ...]:
    """Return pairs of a heading and a text: what the checkpoint and, if it lies in one, its run directory record.

    Raises:
        InputError: a file of the run is damaged.
    """
    rows: list[Row] = []
    state = checkpoint / STATE
    if state.is_file():
        progress = parse(Progress, read_json(state), str(state))
        rows.append(("so far", f"{progress.step:,} updates, {progress.tokens:,} tokens, {progress.seconds:,.0f} s"))
    folder = checkpoint.absolute().parent
    if folder.name == CHECKPOINTS:
        recipe, provenance = folder.parent / RECIPE, folder.parent / PROVENANCE
        if recipe.is_file():
            rows += _recipe_rows(load_recipe(recipe))
        if provenance.is_file():
            rows += _provenance_rows(parse(Provenance, read_json(provenance), str(provenance)))
    return tuple(rows)


def _recipe_rows(recipe: Recipe) -> list[Row]:
    training = recipe.training
    return [
        ("recipe", f"{recipe.name}, SHA-256 {recipe.digest()}"),
        ("begun from", "new weights" if recipe.init is None else f"the checkpoint {recipe.init.name}"),
        ("data", _data(recipe.data)),
        (
            "optimizer",
            f"AdamW, {training.batch_size} rows an update, peak learning rate {training.learning_rate:g} (gates "
            f"{training.gate_learning_rate:g}), weight decay {training.weight_decay:g}, {training.precision}",
        ),
        ("seed", str(recipe.seed)),
    ]


def _data(data: DataSpec) -> str:
    """Say what a model was trained on."""
    if isinstance(data, MixtureData):
        return f"{_data(data.text)}; {data.passkey_fraction:.0%} of the rows are {_data(data.passkey)}"
    if isinstance(data, TasksData):
        kinds = ", ".join(dict.fromkeys(each.task.kind for each in data.tasks))
        return (
            f"rows of {data.row_length:,} tokens: {data.documents:.0%} symbolic documents, {data.repeats:.0%} repeated "
            f"strings, else {kinds}"
        )
    if isinstance(data, PasskeyData):
        return f"passkey prompts of at most {data.max_length:,} tokens"
    if isinstance(data, SummariesData):
        pairs = data.pairs
        texts = (
            f"stories of {pairs.words:,} words" if isinstance(pairs, StoriesSpec) else f"texts of {_name(pairs.source)}"
        )
        return f"{texts} with their summaries, in rows of {data.row_length:,} tokens"
    if isinstance(data, NeedlesData):
        return f"{data.prompts.kind} needle prompts, {data.packing}, in rows of {data.sequence_length:,} tokens"
    source = "a prepared corpus" if data.corpus is None else _corpus(data.corpus)
    return f"{source}, in rows of {data.sequence_length:,} tokens"


def _corpus(corpus: CorpusSpec) -> str:
    """Name a corpus, without the folders of this machine."""
    source = _name(corpus.source)
    return source if corpus.config is None else f"{source} ({corpus.config})"


def _name(source: str) -> str:
    return Path(source).name if Path(source).is_absolute() else source


def _provenance_rows(provenance: Provenance) -> list[Row]:
    return [
        ("whole run", f"{provenance.flops:.3g} operations, by formula"),
        ("hardware", f"{provenance.hardware}, {provenance.cores} cores"),
        ("software", ", ".join(f"{name} {version}" for name, version in provenance.versions.items())),
        *([("commit", provenance.commit)] if provenance.git_commit else []),
        ("data fingerprint", provenance.data_fingerprint),
    ]
