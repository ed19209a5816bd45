"""That the recipes of the 300M study run.

Real in the updates below: width, heads, MLP, gates, memories, initial weights, precision, optimizer and schedule of
each recipe. Shrunk: one layer for twelve, 512 tokens of vocabulary for 49,152, segments of 32 for 1,024 (eight of them
a row, as there), one row for four. The updates on tensors without data have two layers and shrink nothing else. The
chain from text to needles has all stages and switches of the recipes, and a model of 16 numbers.
"""

import pytest
import torch
from study_300m_case import ARMS, FOLDERS, STUDY, batch_of, config_of, name, shrunk, values
from torch._subclasses.fake_tensor import FakeTensorMode

from palimpsest.models import PalimpsestConfig, PalimpsestForCausalLM
from palimpsest.models.budget import UnknownValues
from palimpsest.schema import parse
from palimpsest.training import Recipe, load_recipe, new_model, train
from palimpsest.training.loop import accumulate_gradients
from palimpsest.training.optimizer import build_optimizer, set_learning_rates
from training_case import text_data, write_texts


@pytest.mark.parametrize(
    ("first", "then"), [(FOLDERS[0], FOLDERS[2]), (FOLDERS[1], FOLDERS[3])], ids=["published", "intended"]
)
def test_pretraining_leads_to_fine_tuning(first, then, tmp_path):
    text, needles = values(first / "infini.yaml"), values(then / "infini.yaml")
    text["model"] |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text["model"] |= {"vocab_size": 600}
    text["model"]["attention"] |= {"segment_length": 64}
    text["data"] = {**text_data(write_texts(tmp_path / "texts"), sequence_length=128)}
    prompts = needles["data"]["prompts"]
    if prompts["kind"] == "stored":  # which is on the hub: the same form, made here
        prompts.clear()
        prompts |= {"kind": "published", "units": "characters"}
    lengths = [200, 300] if prompts["kind"] == "published" else [220]
    needles["data"] |= {"sequence_length": 256, "prompts": prompts | {"number": 8, "lengths": lengths}}
    needles["init"] = str(tmp_path / "text")
    for recipe, run in ((text, "text"), (needles, "needles")):
        recipe["training"] |= {"steps": 2, "batch_size": 2, "accumulation": 1, "warmup_steps": 1}
        checkpoint = train(parse(Recipe, recipe, run), tmp_path / run)
    config = PalimpsestConfig.from_pretrained(checkpoint)
    assert config.vocab_size == 600
    assert config.attention_spec.documents == text["model"]["attention"]["documents"]


@pytest.mark.parametrize("folder", FOLDERS[:2], ids=name)
@pytest.mark.parametrize("arm", ARMS)
def test_one_update_by_the_recipe(arm, folder):
    recipe = load_recipe(folder / f"{arm}.yaml")
    model = new_model(shrunk(recipe), recipe.seed).train()
    batch = batch_of(512, 8 * 32)
    documents = torch.arange(8 * 32)[None] // 100  # three documents, the last one short
    batch = batch._replace(document_ids=documents)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    optimizer = build_optimizer(model, recipe.training)
    rate, gate_rate = set_learning_rates(optimizer, recipe.training.warmup_steps - 1, recipe.training)
    loss = accumulate_gradients(model, [batch], bfloat16=recipe.training.precision == "bfloat16")
    optimizer.step()
    assert rate == pytest.approx(recipe.training.learning_rate)
    assert gate_rate == pytest.approx(recipe.training.gate_learning_rate)
    assert loss == pytest.approx(torch.log(torch.tensor(512.0)).item(), rel=0.2)  # it knows nothing yet
    for key, weight in model.state_dict().items():
        moved = (weight - before[key]).abs()
        assert bool(moved.isfinite().all())
        assert float(moved.max()) > 0 or "self_attn" in key, key  # one segment a document reads no memory


@pytest.mark.parametrize("arm", ARMS)
def test_one_update_at_full_size_on_tensors_without_data(arm):
    """The whole vocabulary, the whole row and two of twelve layers: all shapes of an update agree."""
    config = config_of(STUDY / f"{arm}.yaml")
    config.num_hidden_layers = 2
    with FakeTensorMode(), UnknownValues():
        model = PalimpsestForCausalLM(config).train()
        ids = torch.zeros(1, 8192, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(input_ids=ids, labels=ids, use_cache=False)
        assert out.logits.shape == (1, 8192, 49_152)
        out.loss.backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
