"""The language model among the tensors that a tool has stored, whatever names it gave them and whatever stood around it."""

import copy
import re
from pathlib import Path

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import Family, place
from pipeline.growth.initialization import initialized
from pipeline.growth.output_matrix import settle_output, settle_shared
from pipeline.growth.state import Rows, State
from pipeline.growth.untrusted_weights import refuse_untrusted_name

_LANGUAGE_MODELS = (
    *("ForCausalLM", "LMHeadModel", "DoubleHeadsModel", "ForMaskedLM", "ForPreTraining"),
    "ForConditionalGeneration",
)
"""How the names of the classes end that have the language model's head."""

_MADE = "not among the weights, and at the class's random initialization"

_SEED = 0
"""Of a head that the source has none of: the same one at every opening."""


class LanguageModel:
    """The language model that a configuration describes, as far as its tensors have been found."""

    def __init__(self, config: PretrainedConfig, family: Family, said_in: str) -> None:
        """`said_in` is what errors call the configuration's file."""
        self.config = config
        self.family = family
        self.tensors: dict[str, Rows] = {}
        """What was found, by our names."""
        self._said_in = said_in
        untied = copy.copy(config)
        untied.tie_word_embeddings = False
        graph = family.graph(untied)
        self._shapes = {name: tensor.shape(graph.sizes) for name, tensor in graph.tensors().items()}
        self._shapes |= {name: self._shapes[shared] for name, shared in family.shared.items()}
        self._base = family.layers.partition(".")[0] + "."
        self._named: set[str] = set()
        self._heads: set[str] = set()
        self._beyond: set[str] = set()
        self._wrappers: set[str] = set()
        # As names begin of the model inside a language model, and in no file of that model alone.
        self._prefixed = False

    @property
    def names(self) -> list[str]:
        """The names of its tensors, as many as it may have, in the family's order."""
        return list(self._shapes)

    def name(self, path: Path, published: str) -> str | None:
        """Return our name for a tensor that is stored in `path`, or None where it is no part of the language model.

        Raises UserError where the family has no such tensor at these sizes, where it has been found before, and where the
        name says that the weights are an adapter's, quantized or flattened.
        """
        refuse_untrusted_name(path, published)
        beyond = self._layer_beyond(published)
        if beyond is not None:
            self._beyond.add(beyond)
            return None
        placed = place(self.family, published)
        if placed is None or not (placed.name is None or placed.name in self._shapes):
            raise UserError(
                f"{path}: tensor {published!r} is unknown to family {self.family.name} at the sizes in {self._said_in}; put "
                "the model's own config.json there, or save its language model alone"
            )
        self._wrappers |= placed.wrappers
        if placed.head is not None:
            self._heads.add(placed.head)
        if placed.name in self._named:
            raise UserError(f"{path}: tensor {published!r} is there twice; save the model again with save_pretrained")
        if placed.name is not None:
            self._named.add(placed.name)
        return placed.name

    def _layer_beyond(self, published: str) -> str | None:
        """Return the module of a layer after the last that the class runs, which files of the family may hold."""
        key, layers = self.family.layers_beyond, self.config.num_hidden_layers
        named = re.match(rf"{re.escape(self.family.layers)}\.(\d+)(?=\.)", self.family.canonical(published))
        if key is None or named is None:
            return None
        return named[0] if layers <= int(named[1]) < layers + getattr(self.config, key) else None

    def add(self, path: Path, published: str, name: str, tensor: Rows) -> None:
        """Take a tensor under our name; raises UserError where the configuration makes it another shape."""
        if tuple(tensor.shape) != self._shapes[name]:
            raise UserError(
                f"{path}: tensor {published!r} has shape {tuple(tensor.shape)} where {self._said_in} makes it "
                f"{self._shapes[name]}; put the model's own config.json there"
            )
        self.tensors[name] = tensor
        self._prefixed |= self._base in published

    def settle(self, directory: Path) -> tuple[State, list[str]]:
        """Return the model's state, and what there is to say of it; the configuration then says whether its output is tied.

        A head that the model was saved without is at the class's initialization. Raises UserError where something else
        is missing.
        """
        complete = names_head(self.config) if self.config.architectures else self._prefixed and not self._heads
        shared = settle_shared(self.family, self.tensors, directory)
        output = settle_output(self.family, self.config.tie_word_embeddings, shared, complete=complete)
        self.config.tie_word_embeddings = output.tied
        head = {} if complete else self._initial_head(output.state)
        state = {**output.state, **head}
        tensors = self.family.graph(self.config).tensors()
        self._check_missing(directory, [name for name in tensors if name not in state])
        made = [f"{', '.join(self.family.lm_head)}: {_MADE}"] if head else []
        return {name: state[name] for name in tensors}, [*self._remarks(), *made, *output.remarks]

    def _remarks(self) -> list[str]:
        said = []
        if self._wrappers:
            said.append(f"the tensors' names lose {', '.join(f'{name}.' for name in sorted(self._wrappers))}")
        if self._heads:
            said.append(
                f"{', '.join(sorted(self._heads))}: no part of a {self.family.model_class.__name__}, and left out of what is "
                "grown"
            )
        if self._beyond and (key := self.family.layers_beyond) is not None:
            said.append(
                f"{', '.join(sorted(self._beyond))}: after the last of {self.config.num_hidden_layers} layers, and no part of "
                f"what {self.family.model_class.__name__} runs; left out, and {key} is 0 in what is grown"
            )
            setattr(self.config, key, 0)
        return said

    def _initial_head(self, state: State) -> State:
        """Return the language model's head as its class initializes it, where the whole of it is missing; else nothing.

        What stands beside another head, and without the last of its modules, is that head's: ModernBERT's classifiers have
        modules of the same names, and of a tied matrix without a bias there is nothing else.
        """
        initial = initialized(self.family, self.config, _SEED)
        head = {name: tensor for name, tensor in initial.items() if self.family.of_head(name)}
        found = head.keys() & state.keys()
        if self._heads:
            own = any(name.startswith(f"{self.family.lm_head[-1]}.") for name in found)
            return {} if own and found == head.keys() else head
        return {} if found else head

    def _check_missing(self, directory: Path, missing: list[str]) -> None:
        if missing:
            of_pairs = () if self.family.pair_logits is None else (f"{self.family.pooler}.", "cls.seq_relationship.")
            # Of heads that other classes of the family do not have.
            of_a_head = self.family.of_head(missing[0]) or missing[0].startswith(of_pairs)
            raise UserError(
                f"{directory}: tensor {missing[0]!r} is missing from the weights"
                + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
                + "; save the model again with save_pretrained"
                + (", or name its own class in config.json as architectures" if of_a_head else "")
            )


def names_head(config: PretrainedConfig) -> bool:
    """Whether a class that the configuration names has the language model's head."""
    return any(name.endswith(_LANGUAGE_MODELS) for name in config.architectures or ())
