"""What data preparation costs, as ratios within one run.

python -m tests.benchmarks.data_prep [--parts tokenize signatures loader processes memory] [--text FILE.jsonl.zst ...]

tokenize    one core: this project's stage against a loop that encodes a document at a time and writes with megatron-core
signatures  one core: text to MinHash signature against datasketch
loader      the first batch of 1e9 windows; the loader against a training step
processes   the whole preparation by two processes against one
memory      the peak of the whole preparation on 10 MB against all of the text
"""

import os

# One core a process, ours and theirs.
for _variable in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from transformers import PreTrainedTokenizerFast

from data_prep.dedupe.deduplicate import deduplicate
from data_prep.job import Job
from data_prep.plan import draft_plan, freeze
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from data_prep.text.clean import clean
from data_prep.text.cleaning import Clean
from data_prep.text.parts import Parts
from data_prep.text.readers import read_piece
from data_prep.text.rejects import Rejects
from data_prep.tokenizer_stage import ProvideTokenizer
from data_prep.tokenizing import Tokenize
from data_prep.workers import Alone
from tests.benchmarks import loader, signatures

ROOT = Path(__file__).parents[2]
GUTENBERG = ROOT.parent / "shared" / "data" / "gutenberg"
VOCABULARY = 16_000
TOKENIZED_MB = 12
SMALL_MB = 10
SAMPLE = 1_000_000


def quiet(line: str) -> None:
    """Say nothing."""


def texts(files: list[Path], megabytes: float) -> list[str]:
    """Return documents from the beginning of the files, `megabytes` of them."""
    corpus, taken, size = CorpusConfig(files=list(map(str, files))), [], 0.0
    for piece in draft_plan(configured(files, Path("."), VOCABULARY)).slices:
        for _, text in (document for part in piece.pieces for document in read_piece(part, corpus, Rejects())):
            if size >= megabytes * 1e6:
                return taken
            taken.append(text)
            size += len(text.encode())
    return taken


def configured(files: list[Path], output: Path, vocab_size: int, **corpus: object) -> DataPrepConfig:
    """Return a preparation of files with a byte-level BPE tokenizer trained on them."""
    # A small sample: training a tokenizer would otherwise be what takes most memory.
    tokenizer = TokenizerConfig(vocab_size=vocab_size, algorithm="byte_level_bpe", family="gpt2", sample_characters=SAMPLE)
    corpora = [CorpusConfig(files=list(map(str, files)), **corpus)]
    return DataPrepConfig(output_dir=str(output), corpora=corpora, tokenizer=tokenizer)


def write_jsonl(path: Path, documents: list[str]) -> None:
    """Write documents as JSONL."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def tokenize(files: list[Path]) -> None:
    """Print what the stage takes and what the loop takes, on one core with the same tokenizer."""
    with tempfile.TemporaryDirectory() as place:
        root, source = Path(place), Path(place) / "text.jsonl"
        # Clean already, so that both tokenize the same.
        write_jsonl(source, [clean(text) for text in texts(files, TOKENIZED_MB)])
        draft = draft_plan(configured([source], root, VOCABULARY, dedupe="none"))
        plan = freeze(draft, [""])
        job, stage = Job(root, plan.digest, Alone(), quiet), Clean(plan)
        cleaned = job.run(stage)
        parts = Parts(root, stage.parts(cleaned))
        fates = deduplicate(job, plan, parts)
        job.run(ProvideTokenizer(plan, parts, fates))
        began = time.perf_counter()
        facts = job.run(Tokenize(root, plan, parts, fates, cleaned))
        ours, tokens = time.perf_counter() - began, sum(fact.counts["tokens_out"] for fact in facts)
        began = time.perf_counter()
        theirs_tokens = encode_loop(source, PreTrainedTokenizerFast.from_pretrained(root / "tokenizer"), root / "loop")
        theirs = time.perf_counter() - began
    assert theirs_tokens == tokens, "both must have tokenized the same"
    print(f"tokenize   {tokens:,} tokens: ours {ours:.1f} s ({tokens / ours / 1e6:.2f} M/s), the loop {theirs:.1f} s")
    print(f"           ours / the loop = {theirs / ours:.2f}")


def encode_loop(source: Path, tokenizer: PreTrainedTokenizerFast, prefix: Path) -> int:
    """Do as Megatron-LM's preprocessing does: a line, a document, an encode; return the tokens written."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(len(tokenizer)))
    written = 0
    with open(source, encoding="utf-8") as file:
        for line in file:
            ids = [*tokenizer(json.loads(line)["text"]).input_ids, tokenizer.eos_token_id]
            builder.add_document(ids, [len(ids)])
            written += len(ids)
    builder.finalize(f"{prefix}.idx")
    return written


def processes(files: list[Path]) -> None:
    """Print what the whole preparation takes by one process and by two."""
    with tempfile.TemporaryDirectory() as place:
        one, two = (whole(Path(place) / str(count), files, count)["seconds"] for count in (1, 2))
    print(f"processes  one {one:.1f} s, two {two:.1f} s, starting up included")
    print(f"           one / two = {one / two:.2f}")


def memory(files: list[Path]) -> None:
    """Print the peak on a small part of the text and on all of it."""
    with tempfile.TemporaryDirectory() as place:
        small = Path(place) / "small.jsonl"
        write_jsonl(small, texts(files, SMALL_MB))
        little, much = (whole(Path(place) / name, given, 1) for name, given in (("s", [small]), ("l", files)))
    for told in (little, much):
        print(f"memory     {told['characters'] / 1e6:,.0f} million characters: {told['peak_mib']:,.0f} MiB at the peak")
    print(f"           all / a little = {much['peak_mib'] / little['peak_mib']:.2f}")


def whole(folder: Path, files: list[Path], count: int) -> dict[str, float]:
    """Prepare by the command, near-duplicates and all; return seconds, characters of text, and the peak of one process."""
    folder.mkdir()
    config = folder / "c.yaml"
    config.write_text(yaml.safe_dump(configured(files, folder / "out", 8000, dedupe="near").model_dump(mode="json")))
    mpiexec = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(count), sys.executable, "-m", "mpi4py"]
    command = [*([sys.executable] if count == 1 else mpiexec), "-m", "data_prep", "run", str(config)]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0
    # Of the process's own memory map: getrusage would begin with this process's, which it was forked from.
    while process.poll() is None:
        peak = max(peak, high_water(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    parts = (json.loads(part.read_text()) for part in (folder / "out").glob("shards/*/part-*.json"))
    return {
        "seconds": seconds,
        "characters": sum(part["characters_in"] for part in parts),
        "peak_mib": peak / 1024,
    }


def high_water(process: int) -> int:
    """Return the most that a process has had resident so far, in KiB; 0 where it is ending."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def main() -> None:
    """Run the parts that were asked for."""
    parts = {
        "tokenize": tokenize,
        "signatures": lambda files: signatures.main(),
        "loader": lambda files: loader.main(),
        "processes": processes,
        "memory": memory,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--text", nargs="+", type=Path, default=sorted(GUTENBERG.glob("train-*.jsonl.zst")))
    arguments = parser.parse_args()
    if not arguments.text:
        parser.error(f"--text: name text files; there are none in {GUTENBERG}")
    for part in arguments.parts:
        parts[part](arguments.text)


if __name__ == "__main__":
    main()
