"""Fixtures that several rooms share: a small corpus, made up here, and models in Hugging Face's own format."""

import os

# Before anything imports torch: models here are tiny, and several processes run at once on a few cores. Threads of theirs that
# wait for each other take four times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import queue
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from data_prep.manifest import PreparedData
from data_prep.prepare import prepare
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from pipeline.common import progress
from pipeline.common.logs import RANK_VARIABLES
from pipeline.families import FAMILIES, config_key, has_key, held_by, scratch_config
from pipeline.recipe import ModelConfig
from tests.messages import collected, taken_by

# Of this process alone: on the standard error of the programs that tests start, warnings of libraries would stand too.
os.environ.pop("PYTHONWARNDEFAULTENCODING", None)

_SEVERAL_PROCESSES = ("distributed", "end_to_end", "slurm")
"""The folders whose tests start processes, most of them several."""

_WORDS = (
    "the a of and to in is that it was for on are with as his they be at one have this from or had by hot but some "
    "what there we can out other were all your when up use word how said an each she which do their time if will way "
    "about many then them would write like so these her long make thing see him two has look more day could go come "
    "did my sound no most number who over know water than call first people may down side been now find any new work "
    "part take get place made live where after back little only round man year came show every good me give our under"
).split()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--few-cases`, by which `make check` ends within some minutes."""
    parser.addoption(
        "--few-cases",
        action="store_true",
        help="of each parametrized test the first and the last case; nothing that starts several processes",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests, and those that want a Slurm, unless `-m` asks for some; with `--few-cases` more."""
    left_out = set() if config.option.markexpr else {item for item in items if _is_marked(item, "full", "slurm")}
    if config.option.few_cases:
        left_out |= {item for item in items if _is_marked(item, "slow") or item.path.parts[-2] in _SEVERAL_PROCESSES}
        cases: dict[str, list[pytest.Item]] = {}
        for item in items:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
        left_out |= {item for of_one_test in cases.values() for item in of_one_test[1:-1]}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _is_marked(item: pytest.Item, *names: str) -> bool:
    return any(item.get_closest_marker(name) for name in names)


def make_documents(count: int, seed: int = 0) -> list[str]:
    """Return documents whose words follow each other by a rule that a model can learn."""
    draw = random.Random(seed)
    documents = []
    for _ in range(count):
        place = draw.randrange(len(_WORDS))
        words = []
        for _ in range(draw.randrange(60, 120)):
            words.append(_WORDS[place])
            place = (place * 3 + draw.randrange(4)) % len(_WORDS)
        documents.append(" ".join(words) + ".")
    return documents


@pytest.fixture
def progress_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.Queue[str]]:
    """The lines of meters (`pipeline.common.progress`), which come every hundredth of a second."""
    lines: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with taken_by(lines.put, of=progress.__name__):
        yield lines


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """The lines that the project's loggers have said so far."""
    with collected() as lines:
        yield lines


def next_line(progress_lines: queue.Queue[str], part: str) -> str:
    """Return the next line with that part in it."""
    while part not in (line := progress_lines.get(timeout=30)):
        pass
    return line


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, list[int]]]:
    """All meters by name: how large the operation is, and what was counted of it, in steps."""
    found: dict[str, tuple[int, list[int]]] = {}
    enter, advance = progress.Meter.__enter__, progress.Meter.advance

    def entered(meter: progress.Meter) -> progress.Meter:
        found[meter._name] = (meter._total, [])
        return enter(meter)

    def advanced(meter: progress.Meter, amount: int) -> None:
        found[meter._name][1].append(amount)
        advance(meter, amount)

    monkeypatch.setattr(progress.Meter, "__enter__", entered)
    monkeypatch.setattr(progress.Meter, "advance", advanced)
    return found


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 400 documents."""
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in make_documents(400)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """The corpus through a sentencepiece tokenizer of 256 + 150 pieces, in shards."""
    config = DataPrepConfig(
        output_dir=str(tmp_path_factory.mktemp("prepared")),
        corpora=[CorpusConfig(files=[str(corpus)], heldout_fraction=0.1)],
        tokenizer=TokenizerConfig(vocab_size=406),
    )
    return prepare(config)


@pytest.fixture
def tiny_model():
    """A maker of small models whose gains and biases are not trivial, in float64."""

    def make(
        family: str,
        *,
        tied: bool = True,
        hidden: int = 32,
        layers: int = 3,
        vocab: int = 50,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
    ) -> PreTrainedModel:
        """Heads of 8 channels over the hidden size, two to a key-value head where the family shares them."""
        torch.manual_seed(7)
        heads = heads or hidden // 8
        table = FAMILIES[family]
        sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "head_dim": head_dim}
        grouped = kv_heads or (heads // 2 if table.grouped and heads % 2 == 0 else None)
        if table.trained and not has_key(table.config_class, "num_experts"):
            described = ModelConfig(family=family, num_key_value_heads=grouped, tie_word_embeddings=tied, **sizes)
            config = scratch_config(described, vocab_size=vocab, eos_id=0, sequence_length=16)
        else:
            sizes |= {"num_decoder_layers": layers, "head_dim": head_dim or 8, table.intermediate_key: 4 * hidden}
            sizes |= {"num_key_value_heads": grouped or heads, "num_experts": 4, "num_experts_per_tok": 2}
            sizes |= {"moe_intermediate_size": 2 * hidden, "shared_expert_intermediate_size": 3 * hidden}
            sizes |= {"n_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 0}
            sizes |= {"q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "v_head_dim": 6, "qk_rope_head_dim": 8}
            known = {config_key(table.config_class, key): sizes[key] for key in sizes if has_key(table.config_class, key)}
            config = table.configuration(**known, vocab_size=vocab, tie_word_embeddings=tied, pad_token_id=0, eos_token_id=0)
            config.architectures = [table.model_class.__name__]
            # Grouped products of experts do not know float64.
            config._experts_implementation = "eager"
        model = table.model(config).double().eval()
        with torch.no_grad():
            for tensor in held_by(model).values():
                tensor += 0.1 * torch.randn_like(tensor)
        return model

    return make
