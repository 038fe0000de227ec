"""Growth that changes the tokenizer, against stock transformers, `tokenizers` and sentencepiece."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.loading import load_tokenizer
from data_prep.tokenizers.training import train_tokenizer
from pipeline.common.errors import UserError
from pipeline.growth.certificate import expectations
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.moments import fresh_adam
from pipeline.growth.offline import OfflineGrowth
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.state import Constant
from pipeline.growth.token_rows import rows_by_token
from tests.pipeline.growth.models import offline

GPT2, BERT = (Path(__file__).parents[4] / "shared" / "data" / "tokenizers" / name for name in ("gpt2", "bert-base-uncased"))
ENGLISH = ["The residual stream of the model is read by every layer, and the layers add to the stream.\n" * 3] * 4
GERMAN = ["Der Strom der Reste wird von jeder Schicht gelesen, und die Schichten addieren zum Strom der Reste.\n" * 3] * 4


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def made(folder: Path, text: list[str], vocab_size: int, algorithm: str = "byte_level_bpe", family: str = "gpt2") -> Path:
    """Return a folder with a tokenizer trained on a text."""
    folder.mkdir(exist_ok=True)
    train_tokenizer(iter(text), TokenizerConfig(vocab_size=vocab_size, algorithm=algorithm, family=family), folder)
    return folder


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """Save a model in float64, no weight of it trivial, beside its tokenizer."""
    generator = torch.Generator().manual_seed(5)
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    model.save_pretrained(folder)
    return folder


def gpt2(folder: Path, **keys: object) -> Path:
    tokenizer = load_tokenizer(folder)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": tokenizer.vocab_size}
    ids = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    return saved(GPT2LMHeadModel(GPT2Config(**sizes | ids | keys)), folder)


def t5(folder: Path, **keys: object) -> Path:
    made(folder, ENGLISH, 330, "sentencepiece_bpe", "roberta")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 330}
    return saved(T5ForConditionalGeneration(T5Config(**sizes, pad_token_id=1, eos_token_id=2, **keys)), folder)


def padded(folder: Path, token: str | None = None) -> Path:
    """Give a folder's tokenizer a padding token: a new one, or its own end of texts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": token or tokenizer.eos_token})
    tokenizer.save_pretrained(folder)
    return folder


def opened(
    source: Path, tokenizer: Path, target: dict | None = None, growth: dict | None = None, **options: Any
) -> OfflineGrowth:
    sizes = {"tokenizer": str(tokenizer)} | (target or {})
    return offline(source, target=sizes, growth=growth, tokenizer=str(tokenizer), **options)


def grown(source: Path, tokenizer: Path, out: Path, growth: dict | None = None, **target: object) -> dict:
    """Grow into a directory; return the certificate."""
    return opened(source, tokenizer, target, growth, out=out, dtype="float64").execute(lambda _: {})


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    with torch.no_grad(), Float64Casts():
        return model(ids).logits


def table(folder: Path, name: str = "get_input_embeddings") -> torch.Tensor:
    return getattr(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64), name)().weight.detach()


@pytest.fixture
def source(tmp_path):
    return gpt2(made(tmp_path / "source", ENGLISH, 290))


@pytest.fixture
def tokenizer(tmp_path):
    return made(tmp_path / "new", GERMAN, 280)


def test_three_added_tokens_start_at_the_mean_of_their_pieces_and_every_other_row_stays(tmp_path, source):
    old, new = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    added = ["Grundgesetz", " residualstream"]
    new.add_tokens(added)
    new.add_special_tokens({"pad_token": "[PAD]"})
    new.save_pretrained(tmp_path / "new")
    certificate = grown(source, tmp_path / "new", tmp_path / "out", n_embd=24)
    before, after = table(source), table(tmp_path / "out")
    assert certificate["tokens"] == {"carried": 290, "pieces": 3, "mean": 0, "random": 0, "dropped": 0}
    assert after.shape == (293, 24)
    ids = torch.randint(0, 290, (2, 32), generator=torch.Generator().manual_seed(1))
    assert (logits(source, ids) - logits(tmp_path / "out", ids)[..., :290]).abs().max() < 1e-12
    # The first channels are the source's, times the scale of what writes the stream.
    scale = after[7, :16] / before[7]
    for number, token in enumerate([*added, "[PAD]"], 290):
        pieces = before[old.encode(token)].mean(0)
        torch.testing.assert_close(after[number, :16], pieces * scale, rtol=1e-12, atol=1e-14)
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "out").config
    assert (config.eos_token_id, config.pad_token_id) == (0, 292)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("Grundgesetz residualstream") == [290, 291]


@pytest.mark.skipif(not (GPT2.is_dir() and BERT.is_dir()), reason=f"{GPT2} and {BERT} with published vocabularies are absent")
def test_published_vocabularies_of_two_kinds_meet_in_what_their_tokens_mean():
    gpt2, bert = load_tokenizer(GPT2), load_tokenizer(BERT)
    ours, theirs = gpt2.meanings(), bert.meanings()
    made = rows_by_token(gpt2, bert, ours, theirs, 50257)
    of = {token.spelling: number for number, token in enumerate(theirs.tokens)}
    pairs = {"the": "Ġthe", "##ing": "ing", ",": ",", "[CLS]": "<|endoftext|>", "[SEP]": "<|endoftext|>", "##α": "Î±"}
    assert {piece: gpt2.token(int(made.rows[of[piece]])) for piece in pairs} == pairs
    assert [gpt2.token(number) for number in made.pieces[of["##ungen"]]] == ["ung", "en"]
    for tokenizer, own, size in ((gpt2, ours, 50257), (bert, theirs, 30522)):
        assert torch.equal(rows_by_token(tokenizer, tokenizer, own, own, size).rows, torch.arange(size))


def test_another_byte_level_vocabulary_in_another_order_has_the_rows_of_the_tokens_that_both_spell(tmp_path, source):
    made(tmp_path / "new", [*GERMAN, *ENGLISH[:1]], 275)
    certificate = grown(source, tmp_path / "new", tmp_path / "out")
    old, new = (AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("source", "new"))
    before, after = table(source), table(tmp_path / "out")
    shared = sorted(new.keys() & old.keys())
    mine, theirs = ([vocabulary[token] for token in shared] for vocabulary in (old, new))
    assert mine != theirs
    assert len(after) == len(new) == 275
    assert torch.equal(before[mine], after[theirs])
    plain = AutoTokenizer.from_pretrained(source)
    for token in sorted(new.keys() - old.keys()):
        text = plain.backend_tokenizer.decoder.decode([token])
        torch.testing.assert_close(after[new[token]], before[plain.encode(text)].mean(0), rtol=1e-14, atol=1e-15)
    assert certificate["tokens"]["carried"] == len(shared)
    assert certificate["tokens"]["pieces"] == 275 - len(shared) > 0
    drawn = torch.randint(0, len(shared), (2, 32), generator=torch.Generator().manual_seed(2))
    one, other = (logits(source, torch.tensor(mine)[drawn]), logits(tmp_path / "out", torch.tensor(theirs)[drawn]))
    assert (one[..., mine] - other[..., theirs]).abs().max() < 1e-12
    assert (certificate["verdict"], certificate["measured_agrees"]) == ("exact", True)


def test_a_sentencepiece_vocabulary_has_the_rows_of_the_bytes_that_its_pieces_stand_for(tmp_path):
    made(tmp_path / "source", ENGLISH, 300)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}
    source = saved(LlamaForCausalLM(LlamaConfig(**SIZES, **ids, vocab_size=300, num_key_value_heads=1)), tmp_path / "source")
    made(tmp_path / "new", ENGLISH, 330, "sentencepiece_bpe", "llama")
    grown(source, tmp_path / "new", tmp_path / "out", num_hidden_layers=2)
    old = AutoTokenizer.from_pretrained(source).get_vocab()
    new = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    roles = {"<s>": "<|endoftext|>", "</s>": "<|endoftext|>"}
    pairs = {token: roles.get(token, token.replace("▁", "Ġ")) for token in new}
    found = [(new[token], old[known]) for token, known in pairs.items() if known in old and token.isascii() | ("▁" in token)]
    assert len(found) > 30
    theirs, mine = map(list, zip(*found, strict=True))
    for name in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(table(source, name)[mine], table(tmp_path / "out", name)[theirs])
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "out").config
    assert (config.bos_token_id, config.eos_token_id) == (new["<s>"], new["</s>"])


def test_word_pieces_have_the_rows_of_what_they_mean_and_unknown_ones_the_mean_of_all(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##ing", "read", ",", "a"]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    (tmp_path / "new").mkdir()
    changed = ["[PAD]", "[MASK]", "[SEP]", "[UNK]", "[CLS]", "##ing", "reading", ",", "東", "the"]
    (tmp_path / "new" / "vocab.txt").write_text("\n".join(changed), encoding="utf-8")
    source = saved(BertForMaskedLM(BertConfig(**SIZES, vocab_size=10)), tmp_path / "source")
    certificate = grown(source, tmp_path / "new", tmp_path / "out", vocab_size=12)
    before, after = (BertForMaskedLM.from_pretrained(tmp_path / name, dtype=torch.float64) for name in ("source", "out"))
    carried = {0: 0, 1: 4, 2: 3, 3: 1, 4: 2, 5: 6, 7: 8, 9: 5}
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        old, new = before.state_dict()[name], after.state_dict()[name]
        assert torch.equal(new[list(carried)], old[list(carried.values())])
        torch.testing.assert_close(new[6], old[[7, 6]].mean(0), rtol=1e-14, atol=1e-15)
        # Unknown, and without a token.
        for number in (8, 10, 11):
            torch.testing.assert_close(new[number], old.mean(0), rtol=1e-13, atol=1e-15)
    assert certificate["tokens"] == {"carried": 8, "pieces": 1, "mean": 3, "random": 0, "dropped": 2}
    lines = [line for line in certificate["choices"] if line.startswith("tokens: 8 of 12")]
    assert "has no pieces for them" in lines[0]


def test_rows_made_of_pieces_are_the_same_bits_in_any_partition(source, tokenizer):
    rows = opened(source, tokenizer, {"hidden_size": 24}).grown["transformer.wte.weight"]
    whole = rows.rows(0, 280)
    for ranks in (1, 2, 3, 4, 7):
        size = -(-280 // ranks)
        parts = [rows.rows(first, min(first + size, 280)) for first in range(0, 280, size)]
        assert torch.equal(torch.cat(parts), whole)


def test_moments_of_carried_tokens_come_along_and_those_of_new_ones_are_fresh(source, tokenizer):
    growth = opened(source, tokenizer)
    plan = growth.plan
    moments = {
        name: fresh_adam(tuple(tensor.shape), rates=False) | {"exp_avg": Constant(tuple(tensor.shape), 2.0), "step": 9.0}
        for name, tensor in growth.source.state.items()
    }
    kept = grow_optimizer(plan, moments)["transformer.wte.weight"]
    new = plan.tokens.indices < 0
    assert bool(new.any())
    assert not bool(new.all())
    for key, carried in (("exp_avg", 2.0), ("step", 9.0)):
        values = kept[key].rows(0, 280)
        assert bool((values[new] == 0).all())
        assert bool((values[~new] == carried).all())


def test_generation_follows_the_new_tokenizer_and_lists_of_other_ids_are_refused(tmp_path, source):
    GenerationConfig(bos_token_id=0, eos_token_id=[0], temperature=0.5, do_sample=True).save_pretrained(source)
    tokenizer = made(tmp_path / "new", ENGLISH, 320, "sentencepiece_bpe", "roberta")
    grown(source, tokenizer, tmp_path / "out")
    new = load_tokenizer(tmp_path / "out")
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (generation.bos_token_id, generation.eos_token_id, generation.temperature) == (new.bos_id, [new.eos_id], 0.5)
    GenerationConfig(suppress_tokens=[5]).save_pretrained(source)
    with pytest.raises(UserError, match=r"generation_config\.json: suppress_tokens names id 5 of the source's tokenizer"):
        grown(source, tokenizer, tmp_path / "other")


def test_what_cannot_be_grown_to_a_tokenizer_is_refused(tmp_path, source, tokenizer):
    with pytest.raises(UserError, match=r"target\.vocab_size: 279 is smaller than the 280 ids of .*new"):
        grown(source, tokenizer, tmp_path / "out", vocab_size=279)
    with pytest.raises(UserError, match=r"growth\.vocabulary: pieces are those .*; name target\.tokenizer"):
        offline(source, growth={"vocabulary": "pieces"})
    for path in source.glob("*token*"):
        path.unlink()
    for name in ("vocab.json", "merges.txt"):
        (source / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="the model has no tokenizer"):
        grown(source, tokenizer, tmp_path / "out")


def test_a_decoder_starts_with_the_new_tokenizers_padding_and_one_without_is_refused(tmp_path):
    source = t5(tmp_path / "source", decoder_start_token_id=1, tie_word_embeddings=False)
    new = made(tmp_path / "new", ENGLISH, 290)
    with pytest.raises(UserError, match="has no token for decoder_start_token_id, which is 1 in the source"):
        grown(source, new, tmp_path / "out")
    certificate = grown(source, padded(new, "[PAD]"), tmp_path / "out")
    assert certificate["measured"]["max_logit_difference"] < 1e-11
    config = T5Config.from_pretrained(tmp_path / "out")
    assert (config.decoder_start_token_id, config.pad_token_id, config.eos_token_id) == (290, 290, 0)


def test_a_decoder_whose_start_the_source_does_not_name_has_the_new_padding_and_no_start(tmp_path):
    source = t5(tmp_path / "source")
    assert "decoder_start_token_id" not in (source / "config.json").read_text(encoding="utf-8")
    grown(source, padded(made(tmp_path / "new", ENGLISH, 290), "[PAD]"), tmp_path / "out")
    config = T5Config.from_pretrained(tmp_path / "out")
    assert (getattr(config, "decoder_start_token_id", None), config.pad_token_id, config.eos_token_id) == (None, 290, 0)


def test_a_tokenizer_that_pads_where_no_position_is_counted_from_is_refused(tmp_path):
    made(tmp_path / "source", ENGLISH, 300, family="roberta")
    source = saved(RobertaForMaskedLM(RobertaConfig(**SIZES, vocab_size=300, max_position_embeddings=34)), tmp_path / "source")
    new = AutoTokenizer.from_pretrained(source)
    new.add_special_tokens({"pad_token": "[NEW]"})
    new.save_pretrained(tmp_path / "new")
    with pytest.raises(UserError, match="pads with id 300, and roberta counts positions from its padding token, id 1"):
        grown(source, tmp_path / "new", tmp_path / "out")


def verbatim(folder: Path, model: object, split: object, **roles: str) -> Path:
    """Return a folder with a tokenizer of the `tokenizers` library, its roles named."""
    backend = Backend(model)
    backend.pre_tokenizer = split
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("padded", [None, 300])
def test_a_padding_that_is_the_end_of_texts_is_the_configurations_as_it_is_the_tokenizers(tmp_path, padded):
    old = AutoTokenizer.from_pretrained(made(tmp_path / "source", ENGLISH, 300))
    new = AutoTokenizer.from_pretrained(made(tmp_path / "new", GERMAN, 290))
    if padded is not None:
        # The source's padding is a token of both, and pads in the source alone.
        old.add_special_tokens({"pad_token": "[PAD]"})
        old.save_pretrained(tmp_path / "source")
        new.add_tokens(["[PAD]"], special_tokens=True)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": padded}
    source = saved(LlamaForCausalLM(LlamaConfig(**SIZES, **ids, vocab_size=301)), tmp_path / "source")
    new.pad_token = new.eos_token
    new.save_pretrained(tmp_path / "new")
    certificate = grown(source, tmp_path / "new", tmp_path / "out")
    config, generation = (kind.from_pretrained(tmp_path / "out") for kind in (LlamaConfig, GenerationConfig))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    assert (config.pad_token_id, config.eos_token_id, generation.pad_token_id) == (0, 0, 0)
    assert any(line.startswith(f"pad_token_id: {padded} -> 0, by ") for line in certificate["choices"])


def test_a_decoder_that_starts_with_padding_does_not_start_with_the_end_of_a_text(tmp_path):
    source = t5(tmp_path / "source", decoder_start_token_id=1)
    new = padded(made(tmp_path / "new", ENGLISH, 290))
    with pytest.raises(UserError, match=r"no token for decoder_start_token_id, which is 1 .* or one for padding alone"):
        grown(source, new, tmp_path / "out")


def test_the_exactness_says_over_how_many_tokens_it_holds_and_few_are_warned_of(tmp_path, source):
    words = {"<|endoftext|>": 0} | {f"word{number}": number for number in range(1, 20)}
    few = verbatim(tmp_path / "few", WordLevel(words, unk_token="word1"), WhitespaceSplit(), eos_token="<|endoftext|>")
    many = made(tmp_path / "many", [*GERMAN, *ENGLISH[:1]], 275)
    for tokenizer, warned in ((few, True), (many, False)):
        plan = opened(source, tokenizer).plan
        carried, lines = int((plan.tokens.indices >= 0).sum()), expectations(plan)
        over = f"function: exact, over {carried} of {len(plan.tokens)} tokens, those that both tokenizers have"
        assert over in lines
        few_rows = f"warning: the source has a row for only {carried} of {len(plan.tokens)} tokens"
        assert any(line.startswith(few_rows) for line in lines) is warned


def test_a_model_grows_to_a_tokenizer_that_cannot_read_special_tokens_as_text(tmp_path, source):
    pieces = [("<|endoftext|>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in ("the", "model", "stream"))]
    pieces += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz<|>▁"]
    new = verbatim(tmp_path / "new", Unigram(pieces, 1), Metaspace(), eos_token="<|endoftext|>", unk_token="<unk>")
    with pytest.raises(UserError, match=r"makes the special token '<\|endoftext\|>' of a text that spells it"):
        load_tokenizer(new)
    certificate = grown(source, new, tmp_path / "out")
    before, after = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert certificate["measured_agrees"]
    for theirs, ours in (("<|endoftext|>", "<|endoftext|>"), ("▁the", "Ġthe"), ("m", "m")):
        old, new = before.convert_tokens_to_ids(ours), after.convert_tokens_to_ids(theirs)
        assert torch.equal(table(tmp_path / "out")[new], table(source)[old])
