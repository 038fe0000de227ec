"""Tiny models whose vocabulary is words, and a folder that is given as --data."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "good bad the a film was and very plot it who made what city river is in of on by , . ? ' s".split()
SHARED = Path(__file__).resolve().parents[4].parent / "shared" / "data"
"""Data that is too large to be part of the repository; tests that read it skip where it is not."""


def save_bert(directory: Path, vocab_size: int = len(SPECIAL + WORDS), positions: int = 64) -> Path:
    """Write a BERT of 2 layers x 32 and its word pieces; return the directory."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertForMaskedLM(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")
    return directory


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "bert")


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """SST-2 as a toy: a sentence is good where it says so."""
    folder = tmp_path / "data" / "SST-2"
    folder.mkdir(parents=True)
    draw = random.Random(0)
    others = [word for word in WORDS if word not in ("good", "bad")]

    def line(label: int) -> str:
        words = draw.sample(others, 5)
        words.insert(draw.randrange(6), ("bad", "good")[label])
        return f"{' '.join(words)}\t{label}\n"

    for name, count in (("train", 96), ("dev", 40)):
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(line(n % 2) for n in range(count)))
    return folder.parent


def squad_file(path: Path, articles: int, questions: int = 4) -> Path:
    """Write SQuAD as a toy: what was made by whom, in passages with characters that are several bytes each."""
    draw = random.Random(1)
    content = []
    for number in range(articles):
        asked = []
        passage = "  Ünlike —the— film, it was made by "
        name = draw.choice(["city", "river", "plot"])
        context = f"{passage}{name}’s {draw.choice(WORDS)} ."
        for place in range(questions):
            answer = {"answer_start": len(passage), "text": name}
            asked.append({"id": f"{number}.{place}", "question": " who made the film ?", "answers": [answer]})
        content.append({"title": f"article {number}", "paragraphs": [{"context": context, "qas": asked}]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "1.1", "data": content}), encoding="utf-8")
    return path
