"""The forms in which others leave a model: under another head or none, under wrappers, in shards; against their own model."""

import operator
from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.sources import open_source, preview_source
from pipeline.growth.streamed_model import streamed_model
from tests.pipeline.growth.directories import describe, in_shards, rewrite
from tests.pipeline.growth.models import logits, small_model, streamed_logits, tokens, whole

TOLERANCE = 1e-10
"""Both sides compute the same numbers in float64, in another order."""

NAMES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "distilbert": "DistilBert",
    "modernbert": "ModernBert",
    "gpt2": "GPT2",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}
OTHERS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "DoubleHeadsModel",
)
CLASSES = [
    (family, f"{name}{other}") for family, name in NAMES.items() for other in OTHERS if hasattr(transformers, f"{name}{other}")
]


def saved_by(directory, family, class_name, *, tied=True):
    """Save a small model of another class of the family, in float64; return it."""
    config = small_model(family, tied=tied).config
    config.architectures, config.pad_token_id = None, 1
    torch.manual_seed(4)
    model = getattr(transformers, class_name)(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return model


def hidden(model, base):
    with torch.no_grad(), Float64Casts():
        return base(model)(input_ids=tokens(), output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "class_name"), CLASSES)
def test_a_model_under_another_head_or_none_is_read_and_its_missing_head_said(tmp_path, family, class_name, tied):
    theirs = saved_by(tmp_path, family, class_name, tied=tied)
    source = open_source(tmp_path)
    ours = streamed_model(source.family, source.config, source.state, torch.float64)
    assert torch.allclose(hidden(ours, lambda model: model), hidden(theirs, lambda model: model.base_model), atol=TOLERANCE)
    assert source.config.tie_word_embeddings is tied
    left_out = {name.partition(".")[0] for name, _ in theirs.named_parameters()} - {theirs.base_model_prefix, "cls"}
    if not class_name.endswith("Model"):
        assert all(any(head in remark for remark in source.remarks) for head in left_out) and left_out | {"cls"}
    has_head = class_name.endswith("DoubleHeadsModel")
    made = any("at the class's random initialization" in remark for remark in source.remarks)
    assert made is (not has_head and (FAMILIES[family].objective == "mlm" or not tied))


def test_a_classifiers_modules_are_not_taken_for_a_head_of_the_same_names_that_has_nothing_else(tmp_path):
    """A ModernBERT whose output matrix is tied and has no bias: head.dense and head.norm of two different heads."""
    torch.manual_seed(4)
    config = small_model("modernbert").config
    config.decoder_bias, config.architectures = False, None
    transformers.ModernBertForSequenceClassification(config).double().save_pretrained(tmp_path / "classifier")
    theirs = transformers.ModernBertForMaskedLM(config).double()
    theirs.save_pretrained(tmp_path / "model")
    source = open_source(tmp_path / "classifier")
    assert any("head, decoder: not among the weights" in remark for remark in source.remarks)
    assert not torch.equal(
        source.state["head.dense.weight"].rows(0, 32).double(),
        load_file(tmp_path / "classifier" / "model.safetensors")["head.dense.weight"],
    )
    own = open_source(tmp_path / "model")
    assert torch.equal(own.state["head.dense.weight"].rows(0, 32), theirs.head.dense.weight)
    assert not any("initialization" in remark for remark in own.remarks)


@pytest.mark.parametrize(("family", "deviation"), [("bert", 0.02), ("llama", 0.02)])
def test_a_missing_head_is_as_the_class_initializes_it_and_the_same_at_every_opening(tmp_path, family, deviation):
    saved_by(tmp_path, family, f"{NAMES[family]}Model", tied=False)
    matrix, *others = [name for name in open_source(tmp_path).state if name.startswith(("cls.predictions.", "lm_head."))][::-1]
    for name in (matrix, *others):
        first, second = (whole(open_source(tmp_path).state[name]) for _ in range(2))
        assert torch.equal(first, second)
        if first.dim() == 2:
            # The deviation of n draws is known to 1 / sqrt(2 n): six of those are allowed.
            assert abs(first.std().item() - deviation) < 6 * deviation / (2 * first.numel()) ** 0.5, name
        else:
            assert first.unique().tolist() in ([0.0], [1.0]), name


@pytest.mark.parametrize(
    ("family", "class_name", "tied", "is_remarked"),
    [
        ("bert", "BertModel", True, True),
        ("bert", "BertForMaskedLM", True, False),
        ("llama", "LlamaForSequenceClassification", False, True),
        ("llama", "LlamaForSequenceClassification", True, False),
        ("gpt2", "GPT2Model", True, False),
    ],
)
def test_of_a_configuration_alone_a_head_that_will_be_made_is_told(tmp_path, family, class_name, tied, is_remarked):
    saved_by(tmp_path, family, class_name, tied=tied)
    (tmp_path / "model.safetensors").unlink()
    remarks = preview_source(tmp_path).remarks
    assert any(f"a {class_name} has none" in remark for remark in remarks) is is_remarked


def without(*gone):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not any(part in name for part in gone)}


@pytest.mark.parametrize(
    ("family", "class_name", "gone", "named"),
    [
        ("bert", "BertModel", "encoder.layer.1.output.dense.bias", "layer.1.output.dense.bias"),
        ("bert", "BertForMaskedLM", "cls.predictions", "cls.predictions.transform.dense.weight"),
        ("bert", "BertForMaskedLM", "cls.predictions.transform.LayerNorm.bias", "cls.predictions.transform.LayerNorm.bias"),
        ("gpt2", "GPT2ForSequenceClassification", "ln_f.weight", "transformer.ln_f.weight"),
        ("llama", "LlamaForSequenceClassification", "model.norm.weight", "model.norm.weight"),
        ("llama", "LlamaModel", "embed_tokens.weight", "model.embed_tokens.weight"),
        ("qwen3", "Qwen3ForCausalLM", "layers.2.", "model.layers.2."),
    ],
)
def test_a_part_that_is_no_whole_head_of_another_class_is_missed(tmp_path, family, class_name, gone, named):
    saved_by(tmp_path, family, class_name)
    rewrite(tmp_path, without(gone))
    with pytest.raises(UserError, match=rf"tensor '[^']*{named}[^']*' is missing from the weights"):
        open_source(tmp_path)


def test_half_a_head_is_not_made_up(tmp_path):
    """BertModel's architectures with a head that lost a tensor: not a whole head, so that the file is damaged."""
    saved_by(tmp_path, "bert", "BertForMaskedLM")
    rewrite(tmp_path, without("transform.dense.bias"))
    describe(tmp_path, architectures=["BertModel"])
    with pytest.raises(UserError, match=r"'cls\.predictions\.transform\.dense\.bias' is missing"):
        open_source(tmp_path)


@pytest.mark.parametrize(("family", "prefixed", "tied"), [("llama", True, True), ("llama", False, False), ("gpt2", True, True)])
def test_without_a_class_the_names_say_whether_there_was_a_head(tmp_path, family, prefixed, tied):
    """An untied model without its matrix and without `architectures`: of a language model it is tied, else made."""
    saved_by(tmp_path, family, f"{NAMES[family]}ForCausalLM" if family == "llama" else "GPT2LMHeadModel", tied=False)
    base = {"llama": "model.", "gpt2": "transformer."}[family]
    rewrite(tmp_path, without("lm_head"))
    if not prefixed:
        rewrite(tmp_path, lambda tensors: {name.removeprefix(base): tensor for name, tensor in tensors.items()})
    describe(tmp_path, architectures=...)
    assert open_source(tmp_path).config.tie_word_embeddings is tied


def inside(name):
    """As FSDP and activation checkpointing wrap each layer."""
    for list_name in ("layers.", "h.", "layer."):
        head, found, tail = name.partition(f".{list_name}")
        if found:
            number, _, rest = tail.partition(".")
            return f"{head}{found}{number}._fsdp_wrapped_module._checkpoint_wrapped_module.{rest}"
    return name


PREFIXES = ("_orig_mod.", "module.", "_fsdp_wrapped_module.", "module._orig_mod.", "_orig_mod.module.module.")
PREFIXES += ("model.", "model.model.", "module.model.", "_forward_module.model._orig_mod.")
WRAPPED = {prefix: partial(operator.add, prefix) for prefix in PREFIXES}
WRAPPED |= {"within": inside, "within and before": lambda name: "module." + inside(name)}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta", "llama"])
def test_what_training_puts_around_names_is_taken_off_and_said(tmp_path, family, wrapped):
    model = small_model(family)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {WRAPPED[wrapped](name): tensor for name, tensor in tensors.items()})
    source = open_source(tmp_path)
    ours = streamed_logits(source, tokens())
    assert torch.allclose(ours.flatten(), logits(model, tokens()).flatten()[: ours.numel()], atol=TOLERANCE)
    (said,) = [remark for remark in source.remarks if remark.startswith("the tensors' names lose ")]
    named = set(said.removeprefix("the tensors' names lose ").removesuffix(".").split("., "))
    put = "_fsdp_wrapped_module._checkpoint_wrapped_module." if "within" in wrapped else wrapped
    put += "module." if wrapped == "within and before" else ""
    assert named == set(put.removesuffix(".").split("."))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_wrapped_and_unwrapped_names_may_be_mixed_and_not_be_there_twice(tmp_path, family):
    model = small_model(family)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {("module." * (i % 2)) + name: t for i, (name, t) in enumerate(sorted(tensors.items()))})
    source = open_source(tmp_path)
    assert torch.allclose(streamed_logits(source, tokens()), logits(model, tokens()), atol=TOLERANCE)
    rewrite(tmp_path, lambda tensors: tensors | {f"module.{name}": t for name, t in tensors.items() if "module." not in name})
    with pytest.raises(UserError, match=r"tensor '[^']*' is there twice"):
        open_source(tmp_path)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_without_an_index_are_read_where_all_are_there(tmp_path, form):
    model = small_model("gpt2")
    model.save_pretrained(tmp_path)
    in_shards(tmp_path, form, 3, index=False)
    source = open_source(tmp_path)
    assert torch.allclose(streamed_logits(source, tokens()), logits(model, tokens()), atol=TOLERANCE)
    assert "there is no index of the 3 shards, which are taken by their names" in source.remarks
    stem = "pytorch_model" if form == "bin" else "model"
    (tmp_path / f"{stem}-00002-of-00003.{form}").rename(tmp_path / f"{stem}-00002-of-00004.{form}")
    with pytest.raises(UserError, match="holds shards of different models"):
        open_source(tmp_path)
    (tmp_path / f"{stem}-00002-of-00004.{form}").unlink()
    with pytest.raises(UserError, match="2 of 3 shards are there, number 2 is missing and there is no index"):
        open_source(tmp_path)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("auto", torch.bfloat16),
        (None, torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        ("torch.bfloat16", torch.bfloat16),
        ("float32", torch.float32),
        ("float", torch.float32),
        ("double", torch.float64),
        ("half", torch.float16),
    ],
)
def test_a_dtype_is_read_as_transformers_reads_it(tmp_path, key, value, read):
    model = small_model("gpt2").bfloat16()
    model.save_pretrained(tmp_path)
    describe(tmp_path, **{"dtype": ..., key: value})
    source = open_source(tmp_path)
    assert source.config.dtype is read
    assert any(remark.startswith("config.json says dtype") for remark in source.remarks) is (read is not torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert torch.equal(whole(source.state[name]), parameter.float()), name


@pytest.mark.parametrize("value", ["bf16", "fp32", "int8", "float8_e4m3fn", "nn", "", 16, ["float32"], {"": "float32"}, True])
def test_what_is_no_dtype_of_weights_is_refused(tmp_path, value):
    small_model("gpt2").float().save_pretrained(tmp_path)
    describe(tmp_path, dtype=value)
    with pytest.raises(UserError, match=r"config\.json: dtype: .* is no dtype that weights can have; write float64, float32"):
        open_source(tmp_path)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("by", ["architectures", "tensors", "bare tensors", "nothing"])
def test_a_missing_model_type_is_refused_with_the_family_that_it_looks_like(tmp_path, family, by):
    class_name = f"{NAMES[family]}Model" if by == "bare tensors" else small_model(family).config.architectures[0]
    saved_by(tmp_path, family, class_name)
    describe(tmp_path, model_type=..., **({} if by == "architectures" else {"architectures": ...}))
    if by == "nothing":
        (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"config\.json: has no model_type; ") as refused:
        (preview_source if by == "nothing" else open_source)(tmp_path)
    said = str(refused.value)
    if by == "architectures":
        assert said.endswith(f'add "model_type": "{family}", the family of its architectures ({class_name})')
    elif by == "nothing":
        assert said.endswith(f"add the key, which is one of {', '.join(FAMILIES)}")
    else:
        alike = [{"llama", "mistral", "granite", "smollm3"}, {"qwen3"}, {"qwen2"}]
        alike += [{"bert", "roberta"}] if by == "bare tensors" else []
        likely = next((names for names in alike if family in names), {family})
        assert all(f'"{name}"' in said or f"'{name}'" in said for name in likely) and "by its tensors' names" in said
        assert not any(f'"{name}"' in said for name in set(NAMES) - likely)


def test_a_model_type_that_is_null_is_a_missing_one(tmp_path):
    small_model("bert").float().save_pretrained(tmp_path)
    describe(tmp_path, model_type=None, dtype=...)
    with pytest.raises(UserError, match='has no model_type; add "model_type": "bert"'):
        open_huggingface(tmp_path)
