"""The page of a prepared folder: its numbers are the manifest's, and what a text holds does nothing."""

import shutil
from itertools import combinations

import lxml.html
import numpy as np
import pytest

from data_prep.manifest import HELDOUT, MANIFEST, SPLITS, TRAIN, PreparedData
from data_prep.prepare import prepare
from data_prep.report.page import build, write_page
from data_prep.stages.verify import damaged
from data_prep.summary import REPORT
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest
from tests.data_prep.preparing import dropped_examples, preparation, write_jsonl
from tests.data_prep.prose import made_up_texts
from tests.data_prep.test_earlier_versions import edit
from tests.data_prep.tokenizers.forms import FORMS

REPEATED = [f"{line} that stands in many documents, over and over" for line in ("The first line", "A second line", "One more")]
HOSTILE = "<script>alert(1)</script> \u202e turned \u2066 \x00\x07 &amp; <b> \"' </style> {{ 7 * 7 }} " + "W" * 3000


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    """Two corpora that lose documents in every stage."""
    root = tmp_path_factory.mktemp("reported")
    texts, exam = made_up_texts(120, seed=3, words=60), made_up_texts(4, seed=9, words=30)
    documents = [
        *texts,
        *(text.upper() for text in texts[:5]),
        *(text.replace(text.split()[30], "other") for text in made_up_texts(6, seed=4, words=400) * 2),
        *(f"{text[:80]} {exam[number]} {text[80:]}" for number, text in enumerate(texts[5:9])),
        *("\n".join(pair) for pair in combinations(REPEATED, 2)),
        *(f"{text}\n{REPEATED[0]}" for text in made_up_texts(10, seed=6, words=60)),
        *("short", HOSTILE, HOSTILE + "!"),
    ]
    web = [
        {"text": text, "url": f"https://h{n % 40}.example/{HOSTILE}", "language": "en" if n % 3 else "fr", "score": n}
        for n, text in enumerate(documents)
    ]
    corpora = [
        {
            "name": "web",
            "files": [write_jsonl(root / "web<i>.jsonl", web, '{"broken\n')],
            "weight": 3,
            "dedupe": "near",
            "dedupe_spans": {"unit": "line"},
            "where": "score >= 7",
            "columns": ["url", "language"],
            "min_length": 40,
            "boilerplate": ["^W+!$"],
            "heldout_fraction": 0.2,
        },
        {"name": "books", "files": [write_jsonl(root / "books.jsonl", made_up_texts(30))], "weight": 1},
    ]
    sets = {"exam": [write_jsonl(root / "exam.jsonl", exam)]}
    return prepare(preparation(root / "out", *corpora, tokenizer={"vocab_size": 406}, decontamination={"sets": sets}))


class Tables:
    """The tables of a page, by caption, and all its text."""

    def __init__(self, html: str) -> None:
        self.page = lxml.html.document_fromstring(html)
        self.text = self.page.text_content()
        self.tables = {
            table.findtext("caption"): [[cell.text_content() for cell in row] for row in table.iter("tr")]
            for table in self.page.iter("table")
        }

    def numbers(self, caption: str) -> dict[str, int]:
        """The first number of each row, by its heading."""
        return {
            row[0]: int(next(cell for cell in row[1:] if cell[:1].isdigit()).replace(",", ""))
            for row in self.tables[caption][1:]
        }


def test_documents_add_up_from_read_to_kept(data):
    page = Tables(build(data))
    for corpus in data.corpora:
        rows = page.numbers(f"{corpus.name}: documents")
        lost = {name.rpartition(": ")[2]: count for name, count in rows.items() if name.startswith("−")}
        assert lost == dict(corpus.dropped)
        assert rows["read"] == corpus.documents_read == rows["=\N{NO-BREAK SPACE}kept"] + sum(lost.values())
        assert rows["of these to train on"] == corpus.splits[TRAIN].documents
        assert rows["of these held out"] == corpus.splits[HELDOUT].documents
        assert rows["=\N{NO-BREAK SPACE}kept"] == rows["of these to train on"] + rows["of these held out"]
    reasons = {"where", "bad record", "too short", "contaminated", "exact copy", "near copy", "repeated text"}
    assert set(data.corpora[0].dropped) == reasons
    assert "−\N{NO-BREAK SPACE}length: too short" in page.numbers("web: documents")
    assert "the counts of the manifest disagree" not in page.text


def test_tokens_lengths_languages_domains_and_sets_are_the_manifests(data):
    page = Tables(build(data))
    web, books = data.corpora
    head, *rows = page.tables["Tokens of each corpus, and its share of the blend"]
    for corpus, row in zip((web, books), rows, strict=True):
        train, heldout = corpus.splits[TRAIN], corpus.splits[HELDOUT]
        assert row[1:5] == [f"{n:,}" for n in (train.documents, train.tokens, heldout.documents, heldout.tokens)]
    assert [row[head.index("of the blend")] for row in rows] == ["75.0\N{NO-BREAK SPACE}%", "25.0\N{NO-BREAK SPACE}%"]
    lengths = page.numbers("Documents by length")
    assert sum(lengths.values()) == sum(web.lengths.values()) + sum(books.lengths.values())
    assert lengths["256 to 511"] == web.lengths["9"] + books.lengths["9"]
    assert page.numbers("Documents by language") == dict(web.languages)
    domains = page.numbers("Documents by domain")
    assert sum(domains.values()) == web.domains.total() and "15 more" in domains
    assert page.tables["Documents that share a passage with an evaluation set"][1][3] == str(web.contaminated["exam"])
    assert page.numbers("Documents that each step changed").keys() >= {"web"}
    removed = [f"{web.removed[unit]:,}" for unit in ("lines", "paragraphs", "characters")]
    assert page.tables["Removed of documents that stay"][1:] == [["web", *removed]] and web.removed["lines"] >= 10
    counts = data.unigrams("web") + data.unigrams("books")
    frequent = page.tables["The most frequent tokens"]
    assert frequent[1][2:4] == [str(counts.argmax()), f"{counts.max():,}"]
    assert f"{(counts == 0).sum():,} ids of the vocabulary" in page.text
    assert f"{data.unigram_entropy(data.weights):.4f} nats" in page.text
    lengths = np.concatenate([np.asarray(shard.lengths) for shard in data.open(web, TRAIN)])
    assert page.tables["Tokens of a sequence"][1][2:] == [
        f"{len(lengths):,}",
        *(f"{length:,.0f}" for length in np.quantile(lengths, (0.05, 0.25, 0.5, 0.75, 0.95, 1))),
    ]


def test_what_texts_hold_is_shown_and_does_nothing(data):
    html = build(data)
    page = Tables(html)
    assert [len(list(page.page.iter(tag))) for tag in ("script", "b", "i", "style")] == [0, 0, 0, 1]
    shown = "<script>alert(1)</script> [U+202E] turned [U+2066] [U+0000][U+0007] &amp; <b> \"' </style> {{ 7 * 7 }} WWW"
    assert shown in page.text
    assert not {character for character in html if character < " " and character != "\n"}
    assert not set(html) & set("\u202e\u2066")
    # Nothing is fetched: no source, and every link leads to a section of the page itself.
    assert " src=" not in html and "@import" not in html and "url(" not in html
    assert html.count("href=") == html.count('href="#')


def test_a_browser_shows_it_whole_at_any_width_and_fetches_nothing(data, tmp_path, look):
    def bars(page):
        lost = page.locator("td.bar span.lost")
        assert lost.count() == sum(len(corpus.dropped) for corpus in data.corpora)
        # Seen without colour too.
        assert all(lost.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundImage.includes('gradient'))"))

    look(write_page(data, tmp_path / "page.html"), bars)


def test_copies_stand_beside_what_stays(data):
    page = Tables(build(data))
    lines = dropped_examples(data.directory)
    pairs = [line for line in lines if line["kind"] in ("exact", "near")]
    assert {line["kind"] for line in pairs} == {"exact", "near"}
    for line in pairs:
        assert "<script>" in line["text"] or (line["text"] in page.text and line["kept_text"] in page.text)
        assert f"Stays {line['kept_corpus']}, {line['kept_where']}" in page.text
    assert f"in 12 documents, first in web, {data.manifest.config.corpora[0].files[0]}: line" in page.text
    (passage, *_) = [line["passage"] for line in lines if line["kind"] == "contaminated"]
    assert passage in page.text


def test_the_same_folder_gives_the_same_page_and_is_whole_after_it(data):
    manifest = (data.directory / MANIFEST).read_bytes()
    path = write_page(data, None)
    assert path == data.directory / "report.html"
    assert path.read_text(encoding="utf-8") == build(data)
    assert damaged(PreparedData(data.directory)) == []
    assert (data.directory / MANIFEST).read_bytes() == manifest
    again = prepare(data.manifest.config.model_copy(update={"output_dir": str(data.directory.parent)}))
    assert again.directory == data.directory


def test_a_page_does_not_take_the_place_of_what_was_prepared(data, tmp_path):
    before = {path: file_digest(path) for path in data.directory.rglob("*") if path.is_file()}
    for name in (MANIFEST, REPORT, data.corpora[0].splits[TRAIN].shards[0].prefix + ".bin"):
        with pytest.raises(UserError, match="is a file of the prepared text itself"):
            write_page(data, data.directory / name)
    with pytest.raises(UserError, match="is a directory; name an HTML file"):
        write_page(data, tmp_path)
    with pytest.raises(UserError, match="nowhere is no directory"):
        write_page(data, tmp_path / "nowhere" / "page.html")
    assert {path: file_digest(path) for path in before} == before


@pytest.fixture
def folder(data, tmp_path) -> PreparedData:
    """A copy, to be changed."""
    return PreparedData(shutil.copytree(data.directory, tmp_path / "copy"))


@pytest.mark.parametrize("harm", ["missing", "cut", "a directory"])
def test_examples_that_are_not_as_they_were_written_are_refused(folder, harm):
    path = folder.directory / REPORT
    content = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:-9])
    elif harm == "a directory":
        path.mkdir()
    with pytest.raises(UserError, match=r"dropped\.jsonl: .*; put it back, or prepare the text again"):
        build(folder)


def test_a_folder_of_an_earlier_version_is_shown(data, folder):
    """Without what later versions record: by which step, language, domain; whose examples are, and where they stand."""
    path = folder.directory / REPORT
    early = ("kind", "document", "kept", "similarity", "text", "kept_text")
    pairs = (line for line in dropped_examples(folder.directory) if line["kind"] in ("exact", "near"))
    write_jsonl(path, ({key: line[key] for key in early} for line in pairs))

    def age(content) -> None:
        for key in ("format", "evaluation_sets", "encoding"):
            content.pop(key)
        # The first version named no class.
        content["tokenizer"] = content["tokenizer"].partition(" ")[2]
        for corpus in content["corpora"]:
            for key in ("contaminated", "changed", "dropped_by", "removed", "languages", "domains"):
                corpus.pop(key)
        content["files"][REPORT] = file_digest(path)

    edit(folder.directory / MANIFEST, age)
    page = Tables(build(PreparedData(folder.directory)))
    assert f"{data.tokenizer.kind}, 406 ids" in page.text
    assert "prepared by an earlier version" in page.text and "not by which step" in page.text
    assert "−\N{NO-BREAK SPACE}reading: too short" in page.numbers("web: documents")
    kept = sum(data.corpora[0].splits[split].documents for split in SPLITS)
    assert page.numbers("web: documents")["=\N{NO-BREAK SPACE}kept"] == kept
    for sentence in ("No corpus had its language looked at", "No URL is known", "No evaluation set was looked for"):
        assert sentence in page.text


@pytest.mark.parametrize("documents", [1, 0])
def test_the_least_that_can_be_prepared_is_shown(tmp_path, documents):
    """A single document to train on, or none that is left."""
    texts = {"a": "One document" if documents else "Held out", "b": "Held out", "c": "Something else of some words"}
    a, b, c = (write_jsonl(tmp_path / f"{name}.jsonl", [text]) for name, text in texts.items())
    tokenizer = {"path": str(FORMS["gpt2 fast, saved by 5"].write(tmp_path / "tokenizer"))}
    corpora = {"name": "a", "files": [a], "heldout_files": [b]}, {"name": "b", "files": [c]}
    data = prepare(preparation(tmp_path / "out", *corpora, tokenizer=tokenizer))
    page = Tables(build(data))
    assert page.numbers("a: documents")["of these to train on"] == documents
    assert ("a: nothing is left to train on." in page.text) == (documents == 0)
    assert page.tables["Tokens of a sequence"][1][:2] == ["a", "train" if documents else "heldout"]


def test_shards_that_were_taken_as_they_are_have_tokens_and_no_documents_read(data, tmp_path):
    shards, heldout_shards = ([str(data.shards(data.corpora[0], split)[0])] for split in SPLITS)
    given = {"name": "given", "shards": shards, "heldout_shards": heldout_shards}
    taken = prepare(preparation(tmp_path, given, tokenizer={"path": str(data.directory / "tokenizer")}))
    page = Tables(build(taken))
    assert "No text was read: all shards were taken as they are." in page.text
    shown = page.numbers("Tokens of each corpus, and its share of the blend")
    assert shown["given"] == taken.corpora[0].splits[TRAIN].documents
