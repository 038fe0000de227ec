"""DeepSpeed checkpoints as models: those that were written here, and those of other tools.

A config.json names the model: in the tag directory, or wherever another tool has it. That a checkpoint is whole and one
of ours is what its digests are for.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.files import MISSING, irregular
from pipeline.families import Family, family_of, read_config
from pipeline.families.graph import Model
from pipeline.growth.deepspeed_files import read_parameters
from pipeline.growth.fused_parameters import split_kept, split_parameter, stored_of, stored_optimizer
from pipeline.growth.integrity import FILES, damage
from pipeline.growth.language_model import LanguageModel
from pipeline.growth.moments import Kept
from pipeline.growth.partitioned import Parameter
from pipeline.growth.state import Rows, Source
from pipeline.growth.trainer_checkpoints import CONFIG, config_of
from pipeline.growth.untrusted_weights import forget_stale

PROGRESS = "progress.json"
"""The file with a checkpoint's metadata."""
_FITTING = "copy the checkpoint again with its own config.json"


def open_zero_checkpoint(
    directory: Path, config: Path | None = None, *, untrusted: bool = False, part: int = 0, parts: int = 1
) -> Source:
    """Return the model and the optimizer's state in a tag directory of DeepSpeed's, memory-mapped.

    `config` is the model's config.json or a directory with it, where it is not to be looked for (`config_of`). All
    checkpoints that are written here have their own, and the list of what their files should be (`integrity.damage`,
    which `part` and `parts` are for); one that has its own and no such list is opened where it is `untrusted` by the
    caller's word. Raises UserError otherwise, as `read_zero_checkpoint` does, and where its norms are not stock ones yet.
    """
    compared = _compare_digests(directory, untrusted, part, parts)
    _check_norms(directory / PROGRESS)
    if not compared:
        return _read_of_another_tool(directory, config_of(directory, config))
    if config is not None:
        raise UserError(f"source.config: {directory} was written here, with its own config.json; leave it out (--config)")
    return read_zero_checkpoint(directory)


def read_zero_checkpoint(directory: Path) -> Source:
    """Return what is in a checkpoint that was written here, for models with any norms; compare no digests.

    Its config.json names all of its tensors. Raises UserError naming the file where one is missing, damaged, of another
    kind or holds code, and the tensor where one is missing or misshapen.
    """
    path = directory / CONFIG
    config = read_config(path)
    family = family_of(config, str(path))
    graph = family.graph(config)
    held = read_parameters(directory)
    _check(directory, family, graph.parameter_shapes(), held)
    state = stored_of(graph, {name: parameter.tensor for name, parameter in held.items()})
    kept = stored_optimizer(graph, {name: kept for name, parameter in held.items() if (kept := parameter.optimizer_state)})
    return Source(directory, config, family, state, kept, tuple(forget_stale(config)))


def _read_of_another_tool(directory: Path, path: Path) -> Source:
    """Return the language model in a checkpoint that may hold more than one or less, by the configuration in `path`."""
    config = read_config(path)
    model = LanguageModel(config, family_of(config, str(path)), str(path))
    held = _stored(read_parameters(directory), model.family.graph(config))
    named = {name: published for published in held if (name := model.name(directory, published)) is not None}
    kept_of: dict[Rows, Kept] = {}
    # In the family's order: in a checkpoint biases may come before the matrices, whose shapes tell more where one is wrong.
    for name in filter(named.__contains__, model.names):
        tensor, kept_of[tensor] = held[named[name]]
        model.add(directory, named[name], name, tensor)
    state, remarks = model.settle(directory)
    # A head that was not in the checkpoint has no optimizer's state, as what was not trained has none.
    kept = {name: kept_of[tensor] for name, tensor in state.items() if kept_of.get(tensor)}
    remarks += [
        *forget_stale(config),
        f"the DeepSpeed checkpoint {directory} comes without digests to compare its files with; read with {path}",
    ]
    return Source(directory, config, model.family, state, kept, tuple(remarks), described_in=path.parent)


def _stored(held: Mapping[str, Parameter], graph: Model) -> dict[str, tuple[Rows, Kept]]:
    """Return parameters of a class, whose names may have wrappers', as the stored tensors that they hold, in their places.

    Beside each tensor is what an optimizer keeps of it.
    """
    joined, tensors = {each.name: each for each in graph.joined}, graph.held()
    found: dict[str, tuple[Rows, Kept]] = {}
    for name, parameter in held.items():
        ends = [number + 1 for number, letter in enumerate(name) if letter == "."]
        begin = next((place for place in (0, *ends) if name[place:] in joined), None)
        if begin is None or joined[name[begin:]].shape != parameter.shape:
            found[name] = parameter.tensor, parameter.optimizer_state
            continue
        fused = tensors[name[begin:]], graph.sizes
        kept = split_kept(*fused, parameter.optimizer_state)
        for stored, tensor in split_parameter(*fused, parameter.tensor).items():
            found[name[:begin] + stored] = tensor, kept.get(stored, {})
    return found


def _compare_digests(directory: Path, untrusted: bool, part: int, parts: int) -> bool:
    """Return whether there are digests of the files; raises UserError where they differ, or where there should be some."""
    if directory.is_dir() and irregular(directory / FILES) == MISSING:
        if (directory / CONFIG).exists() and not untrusted:
            raise UserError(
                f"{directory}: has no {FILES}, which every checkpoint written here has; if you know where it comes from, set "
                "source.foreign=true (launch/grow.py: --foreign)"
            )
        return False
    fault = damage(directory, part, parts)
    if fault is not None:
        raise UserError(f"{fault}; the checkpoint is damaged: copy it again, or name another one")
    return True


def _check_norms(path: Path) -> None:
    """Refuse weights that compute something else under the norms of Hugging Face's model."""
    fault = irregular(path)
    if fault == MISSING:
        return
    if fault is not None:
        raise UserError(f"{path}: {fault}; copy the checkpoint again")
    try:
        progress = read_json(path, "copy the checkpoint again")
    except UserError:
        raise UserError(f"{path}: not a checkpoint's own file; copy the checkpoint again") from None
    until, step = progress.get("norms_weighted_until"), progress.get("step")
    if until is not None:
        raise UserError(
            f"{path}: the model's norms are weighted until step {until} of its run, and this is step {step}; take a "
            "checkpoint from then on"
        )


def _check(directory: Path, family: Family, shapes: Mapping[str, tuple[int, ...]], held: Mapping[str, Parameter]) -> None:
    for name, shape in shapes.items():
        if name not in held:
            raise UserError(
                f"{directory}: tensor {name!r} is missing, though config.json makes it part of the model; {_FITTING}"
            )
        if held[name].shape != shape:
            found = f"shape {held[name].shape} where config.json makes it {shape}"
            raise UserError(f"{directory}: tensor {name!r} has {found}; {_FITTING}")
    for name in held:
        if name not in shapes:
            raise UserError(f"{directory}: tensor {name!r} is unknown to family {family.name}; {_FITTING}")
