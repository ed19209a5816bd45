"""An exported model in processes that have never heard of this package."""

import inspect
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from laws.model_cases import ATTENTION, SEGMENT, build, tokens
from palimpsest.data.tokenizer import train_tokenizer
from palimpsest.models import PalimpsestForCausalLM
from palimpsest.models.export import AUTO_MAP, export

pytestmark = pytest.mark.e2e

LENGTH = 3 * SEGMENT + 2
AGAIN = "memory_and_full"
"""The model that is also saved again where it was loaded; the code is the same for all."""
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "

BLOCKED = """
from __future__ import annotations
import json, re, sys, warnings
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "palimpsest":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocked())
warnings.simplefilter("error")
try:
    import palimpsest
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package is not blocked")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
folder = Path(sys.argv[1])
"""


def outputs(model: PalimpsestForCausalLM, x: Tensor, new: int = 6) -> dict[str, Tensor]:
    """Return what a model makes of tokens; the source of this function runs in the other process too."""
    out = {"logits": model(x, use_cache=False).logits}
    half = model(x[:, :5], use_cache=True)
    out["cached"] = model(x[:, 5:], past_key_values=half.past_key_values).logits
    model.train()(x, labels=x).loss.backward()
    out |= {f"grad {key}": weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    model.eval()
    out["greedy"] = model.generate(x, max_new_tokens=new, do_sample=False)
    out["beams"] = model.generate(x, max_new_tokens=new, num_beams=3)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        out["sampled"] = model.generate(x, max_new_tokens=new, do_sample=True, num_return_sequences=2)
    return {key: value.detach().contiguous() for key, value in out.items()}


KINDS = f"""
from safetensors.torch import load_file, save_file

{inspect.getsource(outputs)}

x = load_file(folder / "input.safetensors")["x"]
for name in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder / name, trust_remote_code=True)
    assert type(AutoConfig.from_pretrained(folder / name, trust_remote_code=True)) is type(model.config)
    save_file(outputs(model, x), folder / (name + ".safetensors"))
    if name == {AGAIN!r}:
        model.save_pretrained(folder / "again")
        again = AutoModelForCausalLM.from_pretrained(folder / "again", trust_remote_code=True)
        save_file({{"logits": again(x, use_cache=False).logits.detach()}}, folder / "again.safetensors")
"""

TEXT = """
from threading import Thread
from transformers import TextIteratorStreamer, TextStreamer, pipeline

prompts = ["Once upon a time", "A page", "Once upon a time there was a page that was written over and over again."]
options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
write = pipeline("text-generation", model=str(folder / "page"), trust_remote_code=True)
alone = [write(prompt, **options)[0]["generated_text"] for prompt in prompts]
together = [found[0]["generated_text"] for found in write(prompts, batch_size=3, **options)]

model, tokenizer = write.model, write.tokenizer
left = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
assert not left["attention_mask"].all()
padded = model.generate(**left, max_new_tokens=8, do_sample=False)[:, left["input_ids"].shape[1] :]
padded = tokenizer.batch_decode(padded, skip_special_tokens=True)

one = tokenizer(prompts[0], return_tensors="pt")
pieces = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
thread = Thread(target=model.generate, kwargs={**one, "max_new_tokens": 8, "do_sample": False, "streamer": pieces})
thread.start()
streamed = "".join(pieces)
thread.join()

class Kept(TextStreamer):
    text = ""

    def on_finalized_text(self, text, stream_end=False):
        self.text += text

kept = Kept(tokenizer, skip_prompt=True, skip_special_tokens=True)
model.generate(**one, max_new_tokens=8, do_sample=False, streamer=kept)
chat = write([{"role": "user", "content": "Hello"}], **options)[0]["generated_text"]
said = json.dumps({"alone": alone, "together": together, "padded": padded, "streamed": streamed, "kept": kept.text,
                  "chat": chat, "code": type(model).__module__})
(folder / "said.json").write_text(said)

first, *_ = re.findall("```python\\n(.*?)```", (folder / "page" / "README.md").read_text(), re.DOTALL)
exec(first)  # in the folder above, where the model has the name that the card gives it
"""


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}


def small(name: str) -> PalimpsestForCausalLM:
    return build(ATTENTION[name]).float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Export a model of every kind, and one that writes text."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ATTENTION:
        export(small(name), folder / name)
    tokenizer = train_tokenizer(["Once upon a time there was a page, written over and over. " * 9], 300)
    tokenizer.chat_template = TEMPLATE
    model = build(
        ATTENTION["memory_and_full"],
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=2048,
    )
    export(model.float(), folder / "page", tokenizer)
    return folder


@pytest.fixture(scope="module")
def outside(folder) -> Path:
    """Let a process without the package say what it makes of them, and return where it has written that."""
    save_file({"x": tokens(2, LENGTH)}, folder / "input.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + KINDS + TEXT, str(folder), *ATTENTION],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment(folder),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


@pytest.mark.parametrize("name", ATTENTION)
def test_the_code_beside_the_weights_computes_bit_for_bit_what_the_package_does(outside, name):
    got, wanted = load_file(outside / f"{name}.safetensors"), outputs(small(name), tokens(2, LENGTH))
    assert set(got) == set(wanted)
    assert sum(key.startswith("grad ") for key in got) > 10
    assert not [key for key in wanted if not torch.equal(got[key], wanted[key])]


def test_a_model_that_is_saved_again_takes_its_code_along(outside):
    before, after = outside / AGAIN, outside / "again"
    assert {file.name for file in before.iterdir()} - {file.name for file in after.iterdir()} == {"README.md"}
    assert json.loads((after / "config.json").read_text())["auto_map"] == AUTO_MAP
    for file in before.glob("*.py"):
        assert (after / file.name).read_bytes() == file.read_bytes()
    first, second = (load_file(outside / f"{name}.safetensors")["logits"] for name in (AGAIN, "again"))
    assert torch.equal(first, second)


def continued(folder: Path, prompt: str, new: int = 8) -> str:
    """Return what the package's own model writes after a prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "page")
    model = PalimpsestForCausalLM.from_pretrained(folder / "page")
    ids = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=new, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True)


def test_pipelines_streamers_and_the_card_write_what_the_package_writes(outside):
    said = json.loads((outside / "said.json").read_text())
    assert said["code"].startswith("transformers_modules.")
    prompts = ["Once upon a time", "A page"]
    assert said["alone"][:2] == [continued(outside, prompt) for prompt in prompts]
    assert len(set(said["alone"])) == 3
    assert said["together"] == said["padded"] == said["alone"]
    assert said["streamed"] == said["kept"] == said["alone"][0]
    assert said["chat"] == continued(outside, "user: Hello\nassistant: ")
    printed = (outside / "printed.txt").read_text()
    assert printed.startswith("Once upon a time" + continued(outside, "Once upon a time"))


@pytest.fixture
def server(folder) -> Iterator[int]:
    """Serve the model as a user would, and return the port."""
    for needed in ("fastapi", "uvicorn", "accelerate", "openai"):
        pytest.importorskip(needed)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["serve", "page", "--trust-remote-code", "--device", "cpu", "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, "-m", "transformers.cli.transformers", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(folder),
        cwd=folder,
    ) as process:
        try:
            wait_for(f"http://localhost:{port}/health", process)
            yield port
        finally:
            process.terminate()


def wait_for(address: str, process: subprocess.Popen, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server has stopped"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer from {address} in {seconds:g} s")


@pytest.mark.slow
def test_transformers_serve_answers_an_openai_client(server, folder):
    from openai import OpenAI

    client = OpenAI(base_url=f"http://localhost:{server}/v1", api_key="none")
    prompt = {"model": "page", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    text = continued(folder, "Once upon a time")
    assert client.completions.create(**prompt).choices[0].text == text
    pieces = [part.choices[0].text or "" for part in client.completions.create(**prompt, stream=True)]
    assert whole("".join(pieces)) == whole(text)
    messages = [{"role": "user", "content": "Hello"}]
    talk = {"model": "page", "messages": messages, "max_tokens": 8, "temperature": 0}
    answer = continued(folder, "user: Hello\nassistant: ")
    assert client.chat.completions.create(**talk).choices[0].message.content == answer
    pieces = [part.choices[0].delta.content or "" for part in client.chat.completions.create(**talk, stream=True)]
    assert whole("".join(pieces)) == whole(answer)


def whole(text: str) -> str:
    """Leave out half a character at the end, such as random weights write: a stream of text never sends one."""
    return text.rstrip("\ufffd")
