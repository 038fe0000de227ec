"""What `inspect` prints of a prepared folder."""

import numpy as np

from data_prep.manifest import SPLITS, TRAIN, CorpusEntry, PreparedData
from data_prep.samples import QUANTILES, sample_windows, sequence_lengths


def outcome(data: PreparedData) -> list[str]:
    """Return what a finished preparation has come to, in lines."""
    lines = [f"{corpus.name}: nothing is left to train on" for corpus in data.corpora if not corpus.splits[TRAIN].tokens]
    config = data.manifest.config.decontamination
    for name, sizes in data.manifest.evaluation_sets.items():
        found = sum(corpus.contaminated[name] for corpus in data.corpora)
        if sizes["texts"]:
            lines.append(f"decontamination: {found:,} documents share words with {name}")
        elif config is not None:
            lines.append(f"warning: decontamination: no text of {name} has {config.ngram} words, so that it was not looked for")
    tokens = {split: sum(corpus.splits[split].tokens for corpus in data.corpora) for split in SPLITS}
    return [*lines, f"{data.directory}: " + ", ".join(f"{split} {count:,} tokens" for split, count in tokens.items())]


def describe(data: PreparedData, windows: int) -> str:
    """Return counts, reasons, lengths and tokens of each corpus, and `windows` windows of each split as text."""
    manifest = data.manifest
    lines = [
        f"{data.directory}: fingerprint {manifest.fingerprint}, vocabulary of {manifest.vocab_size:,}, "
        f"unigram entropy {data.unigram_entropy(data.weights):.4f} nats a token"
    ]
    lines += manifest.encoding.lines() if manifest.encoding else []
    lines += data.remarks
    for name, sizes in manifest.evaluation_sets.items():
        lines.append(f"looked for passages of {name}: {sizes['texts']:,} texts, and not for {sizes['short']:,} of fewer words")
    for corpus in data.corpora:
        lines += ["", *_describe(data, corpus, windows)]
    return "\n".join(lines)


def _describe(data: PreparedData, corpus: CorpusEntry, windows: int) -> list[str]:
    weight = "by its tokens" if corpus.weight is None else f"weight {corpus.weight:g}"
    lines = [f"{corpus.name} ({weight})"]
    if corpus.documents_read:
        lines.append(f"  read          {corpus.documents_read:,} documents")
    for reason, count in corpus.dropped.items():
        lines.append(f"  {'- ' + reason:<20} {count:,}")
        lines += [f"      {place}" for place in corpus.examples.get(reason, [])[:2]]
    for name, count in corpus.changed.items():
        lines.append(f"  {name + ' changed':<20} {count:,} documents")
    if corpus.removed:
        amounts = ", ".join(f"{count:,} {name}" for name, count in corpus.removed.items())
        lines.append(f"  repeated      {amounts} removed that other documents hold")
    if corpus.languages:
        lines.append("  languages     " + ", ".join(f"{name}: {count:,}" for name, count in corpus.languages.most_common(10)))
    for name, count in corpus.contaminated.items():
        lines.append(f"  {'with ' + name:<20} {count:,} documents share a passage with it")
    if corpus.lengths:
        bins = sorted((int(bits), count) for bits, count in corpus.lengths.items())
        spread = ", ".join(f"{2 ** (bits - 1):,}-{2**bits - 1:,}: {count:,}" for bits, count in bins)
        lines.append(f"  documents by characters  {spread}")
    for split in SPLITS:
        entry = corpus.splits[split]
        if not entry.shards:
            continue
        lines.append(
            f"  {split:<13} {entry.documents:,} documents, {sum(shard.sequences for shard in entry.shards):,} sequences, "
            f"{entry.tokens:,} tokens in {_shards(len(entry.shards))}"
        )
        data.open(corpus, split)  # each is there, and of its size
        lengths = sequence_lengths(data, entry)
        quantiles = ", ".join(
            f"{q:.0%}: {length:,.0f}" for q, length in zip(QUANTILES, np.quantile(lengths, QUANTILES), strict=True)
        )
        lines.append(f"    tokens a sequence, of {len(lengths):,} sequences  {quantiles}")
        lines += [f"    | {text}" for text in sample_windows(data, entry, windows)]
    return lines


def _shards(count: int) -> str:
    return "1 shard" if count == 1 else f"{count} shards"
