"""datatrove's MinHash and tokenize stages over JSONL files, run by `.venv-bench`'s Python, which has nothing of this project.

python datatrove_stages.py SOURCE WORK TOKENIZER.json EOS PROCESSES

SOURCE is a folder of .jsonl files; a file is a task. Writes WORK/result.json: seconds of each stage, what was dropped, tokens.
"""

import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter

BUCKETS, ROWS, NGRAM = 16, 8, 5


def main(source: str, work: str, tokenizer: str, eos: str, processes: int) -> None:
    """Run the stages one after the other."""
    place = Path(work)
    tasks = len(list(Path(source).glob("*.jsonl")))
    config = MinhashConfig(n_grams=NGRAM, num_buckets=BUCKETS, hashes_per_bucket=ROWS)
    kept = JsonlWriter(f"{place}/kept", output_filename="${rank}.jsonl", compression=None)
    signatures, buckets, clusters = (str(place / name) for name in ("signatures", "buckets", "clusters"))
    tokenized = MegatronDocumentTokenizer(f"{place}/shards", tokenizer_name_or_path=tokenizer, eos_token=eos)
    stages = {
        "signature": (tasks, [JsonlReader(source), MinhashDedupSignature(signatures, config)]),
        "buckets": (BUCKETS, [MinhashDedupBuckets(signatures, buckets, config=config)]),
        "cluster": (1, [MinhashDedupCluster(buckets, clusters, config=config)]),
        "filter": (tasks, [JsonlReader(source), MinhashDedupFilter(clusters), kept]),
        "tokenize": (tasks, [JsonlReader(f"{place}/kept"), tokenized]),
    }
    result = {"seconds": {}}
    for name, (count, pipeline) in stages.items():
        began = time.perf_counter()
        logs = f"{place}/logs/{name}"
        stats = LocalPipelineExecutor(pipeline, tasks=count, workers=min(processes, count), logging_dir=logs).run()
        result["seconds"][name] = time.perf_counter() - began
        if name == "filter":
            result["dropped"] = sum(each.stats["dropped"].total for each in stats.stats if "dropped" in each.stats)
        if name == "tokenize":
            result["tokens"] = sum(each.stats["tokens"].total for each in stats.stats if "tokens" in each.stats)
    (place / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
