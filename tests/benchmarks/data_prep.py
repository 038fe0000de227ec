"""What preparing text costs, against Megatron-LM's way, datatrove and datasketch; and the loader.

python -m tests.benchmarks.data_prep [--text GLOB ...] [--megabytes N]

--text       documents to prepare, cut into pieces of a web page's length: as `corpora.files` has them; made-up text without it
--megabytes  of them
"""

import os

# One core a process, ours and theirs.
for _variable in ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import json
import re
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from datasketch import MinHash
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from transformers import PreTrainedTokenizerFast

from data_prep.dedupe.deduplicate import deduplicate
from data_prep.dedupe.minhash import Signer
from data_prep.encoding.provided_tokenizer import ProvidedTokenizer
from data_prep.jobs.job import Job
from data_prep.jobs.workers import Alone
from data_prep.plans.drafting import draft_plan, expand
from data_prep.plans.frozen_plan import freeze
from data_prep.prepare import prepare
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from data_prep.stages.clean import Clean
from data_prep.stages.provide_tokenizer import ProvideTokenizer
from data_prep.stages.tokenize import Tokenize
from data_prep.steps.normalize import clean
from data_prep.text.document_parts import DocumentParts
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import Rejects
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest
from tests.benchmarks import loader
from tests.benchmarks.measuring import MIB, ROOT, Cost, add_text, cost_of, described, in_turn, part_parser, publish, table
from tests.data_prep.dedupe.planted import Writer, prose

DATATROVE = ROOT / ".venv-bench" / "bin" / "python"
STAGES = Path(__file__).parent / "theirs" / "datatrove_stages.py"
CHARACTERS = 3300
"""Of a document: a web page's."""
_READ = 2**26
"""Bytes of a file that are read as one range."""
_MOST_SECONDS = 3600
COPIED = 20
"""Every so manieth document is another's copy but for a word."""
SAMPLE = 1_000_000
"""Characters that the tokenizer is trained on: training it is no part of what is compared."""
SEED = 7
PERMUTATIONS, NGRAM = 128, 5
BATCH = 300
"""Documents that are signed at once: about a megabyte, as the parts are read."""

DEDUPING = {"ours": ("clean", "exact", "minhash", "neighbours", "cluster", "choose", "filter"),
            "datatrove": ("signature", "buckets", "cluster", "filter")}  # fmt: skip


@dataclass(frozen=True)
class Size:
    megabytes: float
    rounds: int
    signed: int
    """Documents that are signed."""
    vocabulary: int


FULL, QUICK = Size(12, 3, 2000, 16_000), Size(0.3, 1, 100, 1000)


def documents(megabytes: float, files: list[str]) -> list[str]:
    """Return documents that are clean already, so that all tokenize the same, near-copies among them.

    Pieces of what the files hold, made up where none are named. Raises UserError where they hold less.
    """
    taken, size = [], 0
    for text in _ranges(files) if files else _made_up():
        if size >= megabytes * 1e6:
            break
        # Not of the one right before it, which would be in the same file.
        copied = len(taken) % COPIED == COPIED - 1
        taken.append(f"{taken[len(taken) // 2]} again" if copied else clean(text))
        size += len(taken[-1].encode())
    if size < megabytes * 1e6:
        raise UserError(f"--text: {megabytes:g} MB are prepared, and {size / 1e6:.2f} MB are there; name more files")
    return taken


def _ranges(files: list[str]) -> Iterator[str]:
    corpus = CorpusConfig(files=files)
    for path in expand(files, "--text", []):
        for input_range in ranges_of_file(path, corpus, _READ):
            for document in read_range(input_range, corpus, Rejects()):
                text = document.text
                yield from (text[start : start + CHARACTERS] for start in range(0, len(text) - CHARACTERS, CHARACTERS))


def _made_up() -> Iterator[str]:
    writer = Writer(SEED)
    while True:
        yield prose(writer.words(590))


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def configured(files: Path, output: Path, dedupe: str, tokenizer: TokenizerConfig) -> DataPrepConfig:
    return DataPrepConfig(
        output_dir=str(output),
        corpora=[CorpusConfig(files=[f"{files}/*.jsonl"], dedupe=dedupe, heldout_fraction=0.1)],
        tokenizer=tokenizer,
        # A part a process even of little text.
        part_mib=1,
    )


def prepare_alone(settings: DataPrepConfig) -> None:
    """Prepare by this process, from the inputs' digests to the manifest."""
    prepare(settings)


# --- tokenizing, on one core ----------------------------------------------------------------------


def tokenizing(root: Path, texts: list[str], files: list[str], size: Size, out: Path | None) -> Path:
    """Publish what the stages and the loop take from the same JSONL, by the same tokenizer; return the tokenizer's folder."""
    source = root / "one"
    write_jsonl(source / "text.jsonl", texts)
    trained = TokenizerConfig(vocab_size=size.vocabulary, algorithm="byte_level_bpe", family="gpt2", sample_characters=SAMPLE)
    draft = draft_plan(configured(source, root, "none", trained))
    plan = freeze(draft, [file_digest(source / "text.jsonl")])
    job, stage = Job(root, plan.digest, Alone()), Clean(plan, {item.name: item.modified for item in draft.inputs})
    cleaned = job.run(stage)
    parts = DocumentParts(root, stage.parts(cleaned))
    decisions = deduplicate(job, plan, parts)
    (provided,) = job.run(ProvideTokenizer(plan, parts, decisions))
    encoder = ProvidedTokenizer.model_validate(provided.counts)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(root / "tokenizer")

    def ours() -> tuple[float, float, int]:
        # What is done is not done again.
        for done in (Clean, Tokenize):
            shutil.rmtree(root / "work" / done.name)
        began = time.process_time()
        again = job.run(stage)
        read = time.process_time()
        facts = job.run(Tokenize(root, plan, parts, decisions, again, encoder))
        ended = time.process_time()
        return ended - began, ended - read, sum(fact.counts["tokens_out"] for fact in facts)

    def loop() -> tuple[float, float, int]:
        began = time.process_time()
        tokens = encode_loop(source / "text.jsonl", tokenizer, root / "loop")
        seconds = time.process_time() - began
        return seconds, seconds, tokens

    job.run(Tokenize(root, plan, parts, decisions, cleaned, encoder))

    taken = in_turn({"ours": ours, "Megatron-LM's loop": loop}, size.rounds)
    (tokens,) = {tokens for rounds in taken.values() for *_, tokens in rounds}
    seconds = {name: statistics.median(each for each, *_ in rounds) for name, rounds in taken.items()}
    stage_alone = statistics.median(each for _, each, _ in taken["ours"])
    publish(
        out,
        "Tokenizing",
        f"{tokens:,} tokens of {len(texts):,} documents, {described(files)}, by one core "
        "with the same byte-level BPE tokenizer, from one JSONL file into shards of the same format: this project's stages "
        f"that read, clean and tokenize (which of it is {stage_alone / seconds['ours']:.0%}), and a line, a document, an "
        "encode at a time with megatron-core's IndexedDatasetBuilder, as Megatron-LM's preprocessing has it; that cleans "
        f"nothing. CPU time, median of {size.rounds} rounds in turn.",
        table(
            ["", "s of CPU time", "million tokens/s", "times ours"],
            [[name, each, tokens / each / 1e6, each / seconds["ours"]] for name, each in seconds.items()],
        ),
    )
    return root / "tokenizer"


def encode_loop(source: Path, tokenizer: PreTrainedTokenizerFast, prefix: Path) -> int:
    """Do as Megatron-LM's preprocessing does; return the tokens written."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(len(tokenizer)))
    written = 0
    with open(source, encoding="utf-8") as file:
        for line in file:
            ids = [*tokenizer(json.loads(line)["text"]).input_ids, tokenizer.eos_token_id]
            builder.add_document(ids, [len(ids)])
            written += len(ids)
    builder.finalize(f"{prefix}.idx")
    return written


# --- signatures, on one core ----------------------------------------------------------------------


def signing(texts: list[str], size: Size, out: Path | None) -> None:
    """Publish the documents that are signed a second, from text to signature."""
    some = texts[: size.signed]
    signer = Signer(PERMUTATIONS, NGRAM)
    signer(["It compiles when it is called first."])

    def ours() -> float:
        began = time.process_time()
        for start in range(0, len(some), BATCH):
            signer(some[start : start + BATCH])
        return len(some) / (time.process_time() - began)

    def theirs() -> float:
        began = time.process_time()
        MinHash.bulk(map(shingles, some), num_perm=PERMUTATIONS)
        return len(some) / (time.process_time() - began)

    taken = in_turn({"ours": ours, "datasketch": theirs}, size.rounds)
    rates = {name: statistics.median(rounds) for name, rounds in taken.items()}
    publish(
        out,
        "MinHash signatures",
        f"{len(some):,} documents of {CHARACTERS:,} characters to {PERMUTATIONS} permutations over {NGRAM}-grams of words, "
        f"shingling included, on one core: median of {size.rounds} rounds.",
        table(
            ["", "documents/s of CPU time", "times slower than ours"],
            [[name, rate, rates["ours"] / rate] for name, rate in rates.items()],
        ),
    )


def shingles(text: str) -> list[bytes]:
    """Return a text's n-grams of words, as one would write them for datasketch."""
    words = re.findall(r"\w+", text.lower())
    return list({" ".join(words[place : place + NGRAM]).encode() for place in range(len(words) - NGRAM + 1)})


# --- from files to shards -------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    cost: Cost
    stages: dict[str, float]
    """Seconds by stage."""
    dropped: int
    tokens: int


def our_command(files: Path, root: Path, tokenizer: Path, processes: int) -> Prepared:
    """Prepare by the command, near-duplicates and all."""
    fresh(root)
    config = root / "c.yaml"
    asked = configured(files, root / "out", "near", TokenizerConfig(path=str(tokenizer)))
    config.write_text(yaml.safe_dump(asked.model_dump(mode="json")))
    mpiexec = [Path(sys.executable).with_name("mpiexec"), "-n", processes, sys.executable, "-m", "mpi4py"]
    start = [sys.executable] if processes == 1 else mpiexec
    cost = cost_of(saying([*start, "-m", "data_prep", "run", config], root / "said"), timeout=_MOST_SECONDS)
    lines = re.findall(r"^data: (\S+) +(\d+\.\d) s", (root / "said").read_text(), re.MULTILINE)
    parts = [json.loads(part.read_text()) for part in (root / "out").glob("shards/*/part-*.json")]
    return Prepared(
        cost,
        {name: float(seconds) for name, seconds in lines},
        sum(sum(part["dropped"].values()) for part in parts),
        sum(split["tokens"] for part in parts for split in part["splits"].values()),
    )


def datatrove(files: Path, root: Path, tokenizer: Path, processes: int) -> Prepared:
    """Prepare by datatrove's MinHash and tokenize stages."""
    fresh(root)
    eos = PreTrainedTokenizerFast.from_pretrained(tokenizer).eos_token
    cost = cost_of([DATATROVE, STAGES, files, root, tokenizer / "tokenizer.json", eos, processes], timeout=_MOST_SECONDS)
    result = json.loads((root / "result.json").read_text())
    return Prepared(cost, result["seconds"], result["dropped"], result["tokens"])


def fresh(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)


def saying(command: list[object], path: Path) -> list[str]:
    """Return a command that writes what it prints into a file."""
    return ["sh", "-c", f"exec {shlex.join(map(str, command))} > {shlex.quote(str(path))}"]


def preparing(root: Path, texts: list[str], tokenizer: Path, size: Size, out: Path | None) -> None:
    """Publish what the whole way takes, from files of text to shards."""
    files = root / "files"
    for number in range(2):
        write_jsonl(files / f"{number}.jsonl", texts[number::2])
    tools: dict[str, Callable[[Path, Path, Path, int], Prepared]] = {"ours": our_command}
    if DATATROVE.exists():
        tools["datatrove"] = datatrove
    works = {
        (name, processes): lambda name=name, tool=tool, processes=processes: tool(files, root / name, tokenizer, processes)
        for processes in (1, 2)
        for name, tool in tools.items()
    }
    # The first round fills caches: what is compiled, what is read from disk.
    taken = {way: rounds[1:] or rounds for way, rounds in in_turn(works, size.rounds).items()}
    rows = []
    for (name, processes), rounds in taken.items():
        stages = [sum(each.stages.get(stage, 0.0) for stage in DEDUPING[name]) for each in rounds]
        whole = [each.cost.seconds for each in rounds]
        # datatrove's workers are not waited for: what they took is known of one process alone.
        cost = (lambda each: each.cost.cpu) if processes == 1 else (lambda each: each.cost.seconds)
        mine = map(cost, taken["ours", processes])
        rows.append(
            [
                f"{name}, {processes} process{'es' * (processes > 1)}",
                statistics.median(stages),
                statistics.median(each.stages["tokenize"] for each in rounds),
                statistics.median(whole),
                statistics.median(each.cost.cpu for each in rounds) if processes == 1 else "",
                statistics.median(theirs / own for theirs, own in zip(map(cost, rounds), mine, strict=True)),
                max(each.cost.peak for each in rounds) / MIB,
                rounds[0].dropped,
                rounds[0].tokens,
            ]
        )
    absent = "" if DATATROVE.exists() else " datatrove is not installed (`make bench-tools`), and is left out."
    publish(
        out,
        "From text to shards",
        f"Two JSONL files of {len(texts):,} documents, one in {COPIED} another's copy but for a word, to shards without "
        "near-duplicates (MinHash, 16 bands of 8 rows over 5-grams), by the whole command, starting up included. datatrove: "
        "its four MinHash stages and MegatronDocumentTokenizer, by LocalPipelineExecutor with as many workers; it reads the "
        "text in three of its stages, tokenizing among them, this project once, which counts to `duplicates`; it also cleans "
        "the text, and verifies what it wrote. The tokenizer is the same. "
        "Words are runs of letters, digits and marks in ours, and in datatrove what its default splitter, spaCy's for English, "
        "makes of the text. With one process `times ours` is by CPU time, with more by the clock." + absent,
        table(
            [
                "",
                "duplicates, s",
                "tokenize, s",
                "in all, s",
                "of CPU time",
                "times ours",
                "peak anonymous MiB",
                "dropped",
                "tokens",
            ],
            rows,
        ),
    )


def main() -> None:
    parser = part_parser(__doc__.splitlines()[0])
    add_text(parser)
    parser.add_argument("--megabytes", type=float, help=f"text to prepare (default: {FULL.megabytes:g})")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    texts = documents(arguments.megabytes or size.megabytes, arguments.text)
    with tempfile.TemporaryDirectory() as place:
        tokenizer = tokenizing(Path(place) / "tokenizing", texts, arguments.text, size, arguments.out)
        signing(texts, size, arguments.out)
        preparing(Path(place), texts, tokenizer, size, arguments.out)
    loader.loading_and_training(arguments.quick, arguments.out)


if __name__ == "__main__":
    main()
