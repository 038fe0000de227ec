"""A step of the user's own, named `module:Class`."""

import inspect
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from data_prep.steps.base import Step
from data_prep.text.document import Document
from data_prep.text.values import NotJsonError, as_json
from pipeline.common.errors import UserError, one_line


class UserStep(Step, name="module:Class"):
    """What `module:Class` makes of the options: an object that is called with a Document, as every step is."""

    path: str
    options: dict[str, Any]

    @cached_property
    def _class(self) -> Callable[..., Callable[[Document], str | None]]:
        module, _, name = self.path.partition(":")
        try:
            return getattr(import_module(module), name)
        except Exception as error:  # the module's own code runs
            raise UserError(
                f"steps: {self.path}: cannot be imported ({_named(error)}); name a class of a module that Python finds from "
                "here, for instance by PYTHONPATH"
            ) from None

    @cached_property
    def _made(self) -> Callable[[Document], str | None]:
        asked = self._class
        try:
            made = asked(**self.options)
        except Exception as error:  # the class's own code runs
            raise UserError(f"steps: {self.path}: does not take the options {self.options} ({_named(error)})") from None
        if not callable(made):
            raise UserError(f"steps: {self.path}: has no __call__(document); see data_prep/steps/base.py")
        return made

    @property
    def files(self) -> list[Path]:
        """The file that the class is in, and those that the class names in `files`."""
        source = inspect.getsourcefile(self._class)
        named = getattr(self._made, "files", [])
        if isinstance(named, str | bytes):
            raise UserError(f"steps: {self.path}: `files` is {named!r}, and a list of paths is expected")
        return [*([_from_here(Path(source))] if source else []), *map(Path, named)]

    @property
    def libraries(self) -> tuple[str, ...]:
        """Those that the class names in `libraries`."""
        return tuple(getattr(self._made, "libraries", ()))

    def check(self) -> None:
        """Raise UserError where there is no such class, or it does not take its options, or its own `check` fails."""
        try:
            getattr(self._made, "check", lambda: None)()
        except UserError:
            raise
        except Exception as error:  # the class's own code runs
            raise UserError(f"steps: {self.path}: its check() fails ({_named(error)})") from None

    def fresh(self) -> "UserStep":
        """Return the step with a new object: what a class counts must not depend on what a process did before."""
        return UserStep(path=self.path, options=self.options)

    def entry(self) -> dict[str, dict[str, Any]]:
        """Return the step as a configuration names it."""
        return {self.path: self.options}

    def __call__(self, document: Document) -> str | None:
        """Do what the class does; raises UserError where that is no step's."""
        where = document.where
        try:
            reason = self._made(document)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # the class's own code runs
            raise UserError(f"steps: {self.path}: fails at {where} ({_named(error)}); correct the class") from error
        if not isinstance(document.text, str):
            raise self._refused(where, f"leaves {document.text!r} as the text", "it is a string")
        if not isinstance(document.columns, dict):
            raise self._refused(where, f"leaves {document.columns!r} as the columns", "they are a dict")
        if document.where != where:
            raise self._refused(where, f"leaves {document.where!r} as the place", "reports name the document by it")
        if reason is not None and not (isinstance(reason, str) and reason.strip() and reason.isprintable()):
            raise self._refused(where, f"returns {reason!r}", "it is None, or why the document is dropped in a few words")
        try:
            # At once: what is read again after deduplication is what JSON has.
            document.columns = as_json(document.columns)
        except NotJsonError as error:
            raise self._refused(where, f"leaves {error} in the columns", "they are written as JSON") from None
        return reason

    def _refused(self, where: str, what: str, instead: str) -> UserError:
        return UserError(f"steps: {self.path}: {what[:200]} at {where}; {instead}")


def _from_here(path: Path) -> Path:
    """A path as it is from the current directory, where it lies below that: the plan is then the same on another machine."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
