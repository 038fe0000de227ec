"""Zero-shot figures, beside loops written with Hugging Face's classes alone, and beside lm_eval's."""

import copy
import gzip
import json
import math
import re

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from pipeline.common.errors import UserError
from pipeline.evaluation.encoding import Encoder
from pipeline.evaluation.harness import harness_score
from pipeline.evaluation.models import scorer_of
from pipeline.evaluation.scoring import Scorer
from pipeline.evaluation.zero_shot import detokenize
from pipeline.evaluation.zero_shot.evaluate import Options, score_tasks
from pipeline.evaluation.zero_shot.texts import OwnText, pages_of
from tests.conftest import next_line
from tests.evaluated import open_model
from tests.pipeline.evaluation.conftest import POSITIONS

# Sums of the same float32 numbers in another order.
SAME = 1e-5


@pytest.fixture(scope="module")
def gpt2(causal):
    return open_model(causal)


@pytest.fixture(scope="module")
def bert(masked):
    return open_model(masked)


def scores(model, task, data, options, scorer=None):
    scorer = scorer or scorer_of(model.module, model.family, model.module, torch.device("cpu"))
    (scored,) = score_tasks([task], scorer, model.family, model.encoder, [data], options)
    return scored


def pages(data):
    return pages_of((data / "wikitext-2" / "wiki.test.tokens").read_text())


@torch.no_grad()
def guide(directory, data, max_length, stride):
    """Loss and scored tokens by the loop of Hugging Face's guide to perplexity, each article behind the end of another."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    loss, tokens = 0.0, 0
    for page in pages(data):
        text = tokenizer(detokenize.wikitext(page), add_special_tokens=False, split_special_tokens=True)
        ids = [model.config.eos_token_id, *text["input_ids"]]
        ids = torch.tensor([ids])
        size = ids.size(1)
        previous = 1
        end = min(max_length, size)
        while True:
            window = ids[:, max(0, end - max_length) : end]
            targets = window.clone()
            targets[:, : -(end - previous)] = -100
            # The mean over the targets, without the first token of a window, which is no target.
            loss += model(window, labels=targets).loss.item() * (end - previous)
            tokens += end - previous
            if end == size:
                break
            previous, end = end, min(end + stride, size)
    return loss, tokens


def test_wikitext_is_the_guides_loop_over_words_tokens_and_bytes(gpt2, causal, data):
    # The guide counts the last target among a window's tokens, which is read by no model here.
    scored = scores(gpt2, "wikitext2", data, Options(window=POSITIONS - 1, stride=10))
    loss, tokens = guide(causal, data, max_length=POSITIONS, stride=10)
    words = sum(len(re.split(r"\s+", page)) for page in pages(data))
    size = sum(len(page.encode()) for page in pages(data))
    assert scored.data["tokens"] == tokens
    assert scored.data["words"] == words
    assert scored.metrics["word_perplexity"] == pytest.approx(math.exp(loss / words), rel=1e-3)
    assert scored.metrics["token_perplexity"] == pytest.approx(math.exp(loss / tokens), rel=SAME)
    assert scored.metrics["bits_per_byte"] == pytest.approx(loss / size / math.log(2), rel=SAME)


def test_the_text_of_ptb_is_one_document(gpt2, causal, data):
    scored = scores(gpt2, "ptb", data, Options())
    text = detokenize.ptb((data / "ptb.test.txt").read_text())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(causal), AutoTokenizer.from_pretrained(causal)
    ids = torch.tensor([1, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]])
    assert len(ids) - 1 > POSITIONS, "the text has more than one window"
    loss, stride = 0.0, POSITIONS // 2
    with torch.no_grad():
        for place in range(1, len(ids)):
            # Where the window that scores it ends: the first is a whole one, the others go on by the stride.
            behind = max(0, place - POSITIONS)
            end = min(POSITIONS + -(-behind // stride) * stride, len(ids) - 1)
            logits = model(ids[None, max(0, end - POSITIONS) : place]).logits[0, -1]
            loss += cross_entropy(logits, ids[place]).item()
    assert scored.metrics["token_perplexity"] == pytest.approx(math.exp(loss / (len(ids) - 1)), rel=SAME)
    # Two sentences' ends among them, as in published perplexities.
    assert scored.data["words"] == 18 + 2
    assert scored.metrics["word_perplexity"] == pytest.approx(math.exp(loss / 20), rel=1e-4)


def test_a_beginning_that_the_vocabulary_lacks_is_none(gpt2):
    config = copy.copy(gpt2.config)
    # The default of GPT-2's class, which stays in the file of a model with another tokenizer.
    config.bos_token_id = 50256
    assert Encoder(gpt2.tokenizer, config).prefix == gpt2.tokenizer.bos_id == 0
    assert gpt2.encoder.prefix == gpt2.config.bos_token_id == 1


def test_a_padding_that_the_vocabulary_lacks_is_not_looked_up(gpt2, data, monkeypatch):
    expected = scores(gpt2, "wikitext2", data, Options())
    # As old configurations of Llama have it.
    monkeypatch.setattr(gpt2.module.config, "pad_token_id", -1)
    assert scores(gpt2, "wikitext2", data, Options()).metrics == expected.metrics


@torch.no_grad()
def last_words(directory, data):
    """Log-likelihoods of the last words, and whether greedy decoding gives each, by a loop."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    found = []
    for line in (data / "lambada_test.jsonl").read_text().splitlines():
        words = json.loads(line)["text"].split(" ")
        context = tokenizer(" ".join(words[:-1]))["input_ids"]
        target = tokenizer(" ".join(words))["input_ids"][len(context) :]
        likelihood, greedy = 0.0, True
        ids = context + target
        ids = ids[-(POSITIONS + 1) :]
        for place in range(len(ids) - len(target), len(ids)):
            spread = model(torch.tensor([ids[:place]])).logits[0, -1].log_softmax(-1)
            likelihood += spread[ids[place]].item()
            greedy &= spread.argmax().item() == ids[place]
        found.append((likelihood, greedy))
    return found


def test_lambada_is_the_last_words_by_a_loop(gpt2, causal, data):
    scored = scores(gpt2, "lambada", data, Options(batch_size=4))
    found = last_words(causal, data)
    expected = math.exp(-sum(likelihood for likelihood, _ in found) / len(found))
    assert scored.metrics["perplexity"] == pytest.approx(expected, rel=SAME)
    assert scored.metrics["accuracy"] == sum(greedy for _, greedy in found) / len(found)


def test_a_word_is_right_where_all_its_tokens_are(causal, data, tmp_path, gpt2):
    """A passage that goes on as the model itself would, and one that does so but for its last token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(causal), AutoTokenizer.from_pretrained(causal)
    for seed in range(400):
        context = tokenizer.decode([seed % 300 + 80, (7 * seed) % 300 + 80])
        ids = tokenizer(context)["input_ids"]
        with torch.no_grad():
            grown = model.generate(torch.tensor([ids]), max_new_tokens=1, do_sample=False, pad_token_id=1)[0].tolist()
        word = tokenizer.decode(grown[len(ids) :])
        text = context + word
        if re.fullmatch(r" \w+", word) and context.strip() == context and tokenizer(text)["input_ids"] == grown:
            break
    else:
        pytest.fail("no context after which the model says a word")
    (tmp_path / "lambada_test.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": text + "ly"}) + "\n")
    assert scores(gpt2, "lambada", tmp_path, Options()).metrics["accuracy"] == 0.5


@torch.no_grad()
@pytest.mark.parametrize("split", [True, False])
def test_pseudo_perplexity_masks_every_token_in_turn(masked, tmp_path, split):
    bert = open_model(masked, split_special_tokens=split)
    (tmp_path / "own.txt").write_text("the a of and to in is <unk> that")
    scored = scores(bert, f"text:{tmp_path / 'own.txt'}", tmp_path, Options(batch_size=3))
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(masked), AutoTokenizer.from_pretrained(masked)
    text = "the a of and to in is <unk> that"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"]
    assert (tokenizer.unk_token_id in ids) is not split
    assert scored.settings["split_special_tokens"] is split
    ids = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
    loss, right = 0.0, 0
    for place in range(1, len(ids) - 1):
        inputs = torch.tensor([ids])
        inputs[0, place] = tokenizer.mask_token_id
        logits = model(inputs).logits[0, place]
        loss += cross_entropy(logits, torch.tensor(ids[place])).item()
        right += logits.argmax().item() == ids[place]
    assert scored.metrics["pseudo_perplexity"] == pytest.approx(math.exp(loss / (len(ids) - 2)), rel=SAME)
    assert scored.metrics["accuracy"] == right / (len(ids) - 2)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("own.txt", b"one\n\ntwo", ["one\n\ntwo"]),
        ("own.raw", b"one\n\ntwo", ["one\n\ntwo"]),
        ("own.txt.gz", gzip.compress(b"one\n\ntwo"), ["one\n\ntwo"]),
        ("own.ndjson", b'{"text": "one"}\n{"text": ["two", "lines"]}', ["one", "two\nlines"]),
        ("own.json.gz", gzip.compress(b'{"text": "one"}\n{"text": "two"}'), ["one", "two"]),
        ("own.json", b'[{"text": "one"},\n{"text": "two"}]', ["one", "two"]),
    ],
    # Compressed bytes hold the time of day.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_text_of_ones_own_is_read_as_data_preparation_reads_it_and_other_files_as_text(tmp_path, name, content, texts):
    (tmp_path / name).write_bytes(content)
    assert [document.text for document in OwnText(f"text:{tmp_path / name}").read(None).examples] == texts


def test_progress_names_model_and_task_and_counts_tokens_and_windows(gpt2, data, progress_lines):
    def slow(input_ids, attention_mask):
        if not lines:
            calls.append(1)
            if len(calls) == 3:
                lines.append(next_line(progress_lines, ", 4 of"))
        return plain.logits(input_ids, attention_mask)

    calls, lines = [], []
    plain = scorer_of(gpt2.module, gpt2.family, gpt2.module, torch.device("cpu"))
    scorer = Scorer(gpt2.module, slow, torch.device("cpu"), 0, 1, plain.total, "models/small")
    scored = scores(gpt2, "wikitext2", data, Options(batch_size=2), scorer)
    line = re.fullmatch(
        r"models/small: wikitext2: (\d+) %, (\d+) of ([\d,]+) tokens, 0:\d\d so far, \d:\d\d left, 4 of (\d+) windows", lines[0]
    )
    assert line, lines[0]
    assert int(line[2]) == 4 * POSITIONS and int(line[3].replace(",", "")) > scored.data["tokens"]


def test_all_that_is_tokenized_and_scored_is_counted(gpt2, bert, data, metered):
    for model in (gpt2, bert):
        scores(model, "wikitext2", data, Options(every=5, batch_size=64))
        for name in ("model: wikitext2", "model: wikitext2: tokenizing"):
            size, advances = metered.pop(name)
            assert sum(advances) == size > 0


def test_every_third_token_is_a_third_of_the_work_and_says_so(bert, data):
    whole, third = (scores(bert, "wikitext2", data, Options(batch_size=64, every=every)) for every in (1, 3))
    assert third.data["tokens"] == -(-whole.data["tokens"] // 3)
    assert third.settings["every"] == 3


@pytest.mark.parametrize("task", ["wikitext2", "lambada"])
def test_neither_ranks_nor_batches_change_a_figure(gpt2, data, task):
    alone = scores(gpt2, task, data, Options(batch_size=5))
    batched = scores(gpt2, task, data, Options(batch_size=64))
    # Float32 matrix products of other shapes.
    assert batched.metrics == pytest.approx(alone.metrics, rel=SAME)
    parts, runs = [], []

    def summed(*values):
        parts.append(values)
        return [sum(column) for column in zip(*parts, strict=True)]

    def counted(input_ids, attention_mask):
        runs[-1] += 1
        return plain.logits(input_ids, attention_mask)

    plain = scorer_of(gpt2.module, gpt2.family, gpt2.module, torch.device("cpu"))
    # Of six passages the last of four ranks has one fewer than the first, and runs as often.
    for rank in range(4):
        runs.append(0)
        shared = Scorer(gpt2.module, counted, torch.device("cpu"), rank, 4, summed)
        scored = scores(gpt2, task, data, Options(batch_size=1), shared)
    assert scored.metrics == pytest.approx(alone.metrics, rel=SAME)
    assert len(set(runs)) == 1


WIKITEXT_TASK = """
task: ours_wikitext
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/pages.jsonl
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: !function preprocess_wikitext.wikitext_detokenizer
process_results: !function preprocess_wikitext.process_results
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""

LAMBADA_TASK = """
task: ours_lambada
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/lambada_test.jsonl
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def include_path(data, tmp_path_factory):
    """lm_eval's own wikitext and lambada_openai, over local files."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "pages.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in pages(data)))
    (folder / "lambada_test.jsonl").write_text((data / "lambada_test.jsonl").read_text())
    (folder / "preprocess_wikitext.py").write_text(
        "from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer\n"
    )
    (folder / "wikitext.yaml").write_text(WIKITEXT_TASK.format(folder=folder))
    (folder / "lambada.yaml").write_text(LAMBADA_TASK.format(folder=folder))
    return folder


def harness(model, name, include_path, window=None, limit=None):
    return harness_score(f"lm_eval:{name}", model, include_path, window, batch_size=4, limit=limit)


@pytest.mark.slow
def test_the_digest_of_a_lm_eval_task_is_of_its_examples_and_of_how_they_are_judged(gpt2, include_path, tmp_path):
    def digest(change=lambda text: text, passages=None) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        text = (include_path / "lambada_test.jsonl").read_text()
        (folder / "lambada_test.jsonl").write_text(text if passages is None else passages(text))
        (folder / "lambada.yaml").write_text(change(LAMBADA_TASK.format(folder=folder)))
        return harness(gpt2, "ours_lambada", folder).data["digest"]

    same, moved = digest(), digest()
    assert same == moved
    others = [
        digest(passages=lambda text: text.replace("the", "that")),
        digest(passages=lambda text: "".join(text.splitlines(keepends=True)[1:])),
        digest(lambda text: text.replace("{{text.split", "So {{text.split")),
        digest(lambda text: text.replace("aggregation: mean", "aggregation: median")),
    ]
    assert len({same, *others}) == 5


def test_wikitext_without_overlap_is_lm_evals(gpt2, data, include_path):
    ours = scores(gpt2, "wikitext2", data, Options(stride=POSITIONS))
    theirs = harness(gpt2, "ours_wikitext", include_path)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-4), name
    assert theirs.data["examples"] == 4


def test_lambada_is_lm_evals(gpt2, data, include_path):
    ours, theirs = scores(gpt2, "lambada", data, Options()), harness(gpt2, "ours_lambada", include_path)
    assert ours.metrics["perplexity"] == pytest.approx(theirs.metrics["perplexity"], rel=1e-4)
    assert ours.metrics["accuracy"] == theirs.metrics["acc"]
    # Settings tell scores apart: one of a few examples is not to take the place of one of all.
    assert theirs.settings != harness(gpt2, "ours_lambada", include_path, limit=2).settings


def test_what_lm_eval_does_not_know_is_refused_with_the_nearest(gpt2, include_path):
    with pytest.raises(UserError, match=r"no task 'ours_lambda'; did you mean 'ours_lambada'\?"):
        harness(gpt2, "ours_lambda", include_path)


def test_masked_models_are_asked_nothing_that_comes_next(bert, data):
    with pytest.raises(UserError, match="lambada asks what comes next, and bert is a masked model"):
        scores(bert, "lambada", data, Options())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(window=POSITIONS + 1), "--window: 33 is beyond the model's 32 positions"),
        (Options(stride=POSITIONS + 1), "--stride: 33 tokens are more than a window of 32"),
    ],
)
def test_windows_that_do_not_fit_are_refused(gpt2, data, options, sentence):
    with pytest.raises(UserError, match=sentence):
        scores(gpt2, "wikitext2", data, options)


def test_a_text_of_which_no_token_is_scored_is_refused(bert, tmp_path):
    (tmp_path / "own.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"own\.txt: holds no text"):
        scores(bert, f"text:{tmp_path / 'own.txt'}", tmp_path, Options())
