import os
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from pydantic import ValidationError
from transformers import AutoConfig, AutoTokenizer

from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.loading import load_tokenizer
from data_prep.tokenizers.training import SPECIAL_TOKENS, train_tokenizer
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts

TEXTS = made_up_texts(300)
UNSEEN = [
    *made_up_texts(50, seed=1),
    *(
        "",
        " leading",
        "trailing ",
        "two  spaces   three",
        "\n",
        "a\n\nb\r\n",
        "tab\there",
        "😀👩‍👩‍👧 ok",
        "日本語",
        "▁ bar",
        "\u00a0x",
        "aaaaaaaaaaa",
    ),
]
MADE = [
    ("sentencepiece_bpe", "roberta"),
    ("sentencepiece_bpe", "llama"),
    ("sentencepiece_bpe", "bert"),
    ("sentencepiece_unigram", "mistral"),
    ("byte_level_bpe", "gpt2"),
    ("byte_level_bpe", "roberta"),
    ("byte_level_bpe", "bert"),
    ("byte_level_bpe", "qwen3"),
    ("wordpiece", "bert"),
]


def train(folder: Path, algorithm: str, family: str, vocab_size: int = 600, texts: list[str] = TEXTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(texts, TokenizerConfig(vocab_size=vocab_size, algorithm=algorithm, family=family), folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("trained")
    return {made: train(root / "-".join(made), *made) for made in MADE}


@pytest.mark.parametrize("made", MADE)
def test_a_trained_tokenizer_has_its_familys_special_tokens_from_id_0(trained, made):
    tokenizer = load_tokenizer(trained[made])
    special = SPECIAL_TOKENS[made[1]]
    names = list(dict.fromkeys(special.values()))
    assert tokenizer.vocab_size == 600
    assert tokenizer.eos_id == names.index(special.get("eos_token", special.get("sep_token")))
    assert tokenizer.sep_id == names.index(special.get("sep_token", special.get("eos_token")))
    assert tokenizer.mask_id == (names.index(special["mask_token"]) if "mask_token" in special else None)
    if "cls_token" in special:
        assert tokenizer.cls_id == names.index(special["cls_token"])
    ids = tokenizer.encode_batch(UNSEEN)
    assert not {i for text in ids for i in text} & set(tokenizer.special_ids) - {
        names.index("[UNK]") if made[1] == "bert" else -1
    }


def test_robertas_ids_are_robertas(trained):
    for algorithm in ("sentencepiece_bpe", "byte_level_bpe"):
        loaded = AutoTokenizer.from_pretrained(trained[algorithm, "roberta"])
        assert loaded.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("made", [made for made in MADE if made[0] != "wordpiece"])
def test_text_comes_back(trained, made):
    tokenizer = load_tokenizer(trained[made])
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(TEXTS)] == TEXTS


@pytest.mark.parametrize("made", [made for made in MADE if made[0] != "sentencepiece_unigram"])
@pytest.mark.parametrize("beside_a_model", [False, True])
def test_transformers_reads_the_same_tokenizer(trained, made, beside_a_model, tmp_path):
    for path in load_tokenizer(trained[made]).files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if beside_a_model:
        AutoConfig.for_model(made[1], vocab_size=600).save_pretrained(tmp_path)
    loaded, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(trained[made])
    assert loaded(UNSEEN, add_special_tokens=False)["input_ids"] == ours.encode_batch(UNSEEN)
    assert len(loaded) == ours.vocab_size
    special = SPECIAL_TOKENS[made[1]]
    assert {key: getattr(loaded, key) for key in special} == special
    assert loaded.convert_tokens_to_ids(list(dict.fromkeys(special.values()))) == list(range(len(set(special.values()))))


def test_the_json_of_a_sentencepiece_model_decodes_as_the_model_does(trained):
    loaded = AutoTokenizer.from_pretrained(trained["sentencepiece_bpe", "llama"])
    ours = load_tokenizer(trained["sentencepiece_bpe", "llama"])
    for ids in ours.encode_batch(UNSEEN):
        assert loaded.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize("made", [made for made in MADE if made[1] == "bert"])
def test_berts_pairs_are_framed_as_berts(trained, made):
    loaded = AutoTokenizer.from_pretrained(trained[made])
    pair = loaded("ba ce", "di fo")
    first, second = loaded(["ba ce", "di fo"], add_special_tokens=False)["input_ids"]
    assert pair["input_ids"] == [2, *first, 3, *second, 3]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_wordpiece_keeps_a_thousand_characters_the_most_frequent_first(tmp_path):
    seldom = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    pieces = AutoTokenizer.from_pretrained(train(tmp_path, "wordpiece", "bert", 1010, ["Aab aab cb" * 50, seldom])).get_vocab()
    assert {"a", "b", "##b", "aab"} < set(pieces)
    assert [character for character in seldom if character in pieces] == list(seldom[:997])


TRAIN_ALL = """
import sys
from pathlib import Path
from tests.data_prep.tokenizers.test_training import MADE, train
for made in MADE:
    for size in (450, 900):
        train(Path(sys.argv[1], *made, str(size)), *made, size)
"""


@pytest.mark.slow
def test_the_same_texts_give_the_same_files_in_other_processes_with_other_threads(tmp_path):
    for threads in ("1", "3"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run(
            [sys.executable, "-c", TRAIN_ALL, tmp_path / threads],
            cwd=Path(__file__).parents[3], env=environment, check=True, timeout=120,
        )  # fmt: skip
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.*"))
    assert len(files) >= 2 * len(MADE)
    for path in files:
        assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "3" / path).read_bytes(), path


@pytest.mark.parametrize("algorithm", ["sentencepiece_bpe", "sentencepiece_unigram", "byte_level_bpe", "wordpiece"])
def test_a_vocabulary_that_does_not_fit_the_text_is_refused(tmp_path, algorithm):
    family = "bert" if algorithm == "wordpiece" else "roberta"
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: 90000 does not fit the text \(.+\); name a smaller one"):
        train(tmp_path, algorithm, family, 90_000, TEXTS[:20])
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: 20 does not fit the text \(.+\); name a larger one"):
        train(tmp_path, algorithm, family, 20)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("algorithm", "family"), [("wordpiece", "roberta"), ("sentencepiece_bpe", "gpt2"), ("sentencepiece_unigram", "qwen3")]
)
def test_special_tokens_that_an_algorithm_cannot_have_are_refused(algorithm, family):
    with pytest.raises(ValidationError, match=f"algorithm: {algorithm}.*{family}.*set family"):
        TokenizerConfig(vocab_size=600, algorithm=algorithm, family=family)


def test_a_line_longer_than_the_trainer_reads_is_not_passed_over(tmp_path):
    texts = [" ".join(text.replace("\n", " ") for text in TEXTS[:100]), "x"]
    words = texts[0].split()
    folder = train(tmp_path / "long", "sentencepiece_bpe", "roberta", 600, texts)
    assert (folder / "tokenizer.model").read_bytes() != train(
        tmp_path / "half", "sentencepiece_bpe", "roberta", 600, [" ".join(words[: len(words) // 2])]
    ).joinpath("tokenizer.model").read_bytes()
    frequent = max(set(words), key=words.count)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert len(model.encode(frequent)) == 1
