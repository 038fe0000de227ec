"""Zero-shot figures on several ranks: the windows shared out, the model whole on each or in pieces."""

import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.common.errors import UserError
from pipeline.evaluation.models import find_model, scorer_of, whole_model
from pipeline.evaluation.zero_shot.evaluate import Options, score_tasks
from pipeline.families import FAMILIES
from pipeline.training import distributed
from pipeline.training.inference import load_partitioning, partitioned_engine
from tests.conftest import make_documents
from tests.distributed.engines import matrix_elements
from tests.evaluated import open_model
from tests.pipeline.evaluation.conftest import write_tokenizer
from tests.pipeline.growth import check
from tests.ranks import run_ranks

CPU = torch.device("cpu")
# Small matrices too are gathered no earlier than they are used, and let go of then.
SMALL = {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A GPT-2 with a matrix that no number of ranks divides evenly, and a text beside it."""
    directory = tmp_path_factory.mktemp("model")
    size = write_tokenizer(directory)
    torch.manual_seed(5)
    config = GPT2Config(vocab_size=size + 1, n_positions=32, n_embd=36, n_layer=2, n_head=4, initializer_range=0.2)
    config.bos_token_id = config.eos_token_id = 1
    GPT2LMHeadModel(config).save_pretrained(directory)
    (directory / "own.txt").write_text(" ".join(make_documents(4)))
    (directory / "zero3.json").write_text(json.dumps({"bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 3, **SMALL}}))
    return directory


def figures(directory: Path, scorer, model) -> dict[str, float]:
    (scored,) = score_tasks([f"text:{directory / 'own.txt'}"], scorer, model.family, model.encoder, None, Options(batch_size=3))
    return scored.metrics


def on_ranks(directory: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the whole model, and of the model in pieces."""
    rank = {"rank": distributed.rank(), "ranks": distributed.world_size(), "total": distributed.total}
    found = find_model(directory, part=rank["rank"], parts=rank["ranks"])
    module = whole_model(found.source, CPU, torch.float32)
    whole = figures(directory, scorer_of(module, found.family, module, CPU, **rank), found)
    del module
    gc.collect()
    engine = partitioned_engine(found.source, load_partitioning(directory / "zero3.json", torch.float32))
    most = []
    engine.module.transformer.h[1].mlp.c_proj.register_forward_pre_hook(lambda *_: most.append(matrix_elements()))
    pieces = figures(directory, scorer_of(engine.module, found.family, engine, CPU, **rank), found)
    matrices = sum(tensor.shape[0] * tensor.shape[1] for tensor in found.source.state.values() if len(tensor.shape) == 2)
    assert most, "the second layer ran"
    assert max(most) < matrices / 2, f"a rank held {max(most)} of {matrices} elements at once"
    return whole, pieces


def test_two_ranks_score_what_one_does_and_hold_a_layer_at_a_time(directory):
    model = open_model(directory)
    alone = figures(directory, scorer_of(model.module, model.family, model.module, CPU), model)
    first, second = run_ranks(on_ranks, 2, directory, timeout=120)
    assert first == second
    # Rows share batches with others, and float32 matrix products of other shapes round otherwise.
    for shared in first:
        assert shared == pytest.approx(alone, rel=1e-5)


def routed(directory: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits of a mixture in bf16 and of its first router, whole and in pieces."""
    found, ids = find_model(directory), torch.arange(24).view(2, 12)
    both = []
    for pieces in (False, True):
        if pieces:
            model = partitioned_engine(found.source, load_partitioning(directory / "zero3.json", torch.bfloat16)).module
        else:
            model = whole_model(found.source, CPU, torch.bfloat16)
        seen = []
        model.model.layers[0].mlp.gate.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output[0]))
        with torch.no_grad():
            both.append([model(input_ids=ids).logits, *seen])
    return tuple(both)


def test_a_mixture_in_pieces_routes_in_float32_as_the_whole_one_does(directory, tmp_path):
    """Of units that are no multiple of 8, which grouped products do not take in bf16."""
    shutil.copytree(directory, tmp_path / "mixture")
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 36, "hidden_size": 32}
    config = check.small_config(FAMILIES["mixtral"], **sizes, vocab_size=GPT2Config.from_pretrained(directory).vocab_size)
    check.random_model(FAMILIES["mixtral"], config, 1).float().save_pretrained(tmp_path / "mixture")
    ((whole, pieces),) = run_ranks(routed, 1, tmp_path / "mixture", timeout=120)
    assert whole[1].dtype == pieces[1].dtype == torch.float32
    assert torch.equal(whole[1], pieces[1]) and torch.equal(whole[0], pieces[0])


def test_a_configuration_that_partitions_nothing_is_refused(tmp_path):
    (tmp_path / "zero1.json").write_text('{"zero_optimization": {"stage": 1}}')
    with pytest.raises(UserError, match=r"zero1\.json: zero_optimization\.stage: stage 1 does not partition weights"):
        load_partitioning(tmp_path / "zero1.json", torch.float32)
