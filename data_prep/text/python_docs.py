"""The embedded corpus: English prose that every Python environment carries.

Docstrings of the standard library and of the installed packages (read with `ast`, never by
importing), the language reference in `pydoc_data`, and the packages' own descriptions.
"""

import ast
import hashlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import sysconfig
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from email.message import Message
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline.common.progress import Advance

MIN_CHARACTERS = 120
"""Shorter entries say little more than the name they document."""
MIN_PROSE = 0.7
"""Least share of letters and spaces: below it an entry is a table, a listing or a doctest."""

SIZE = 40_000_000
"""About how many bytes of text there are."""

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "lib2to3", "idlelib"}
_WORD = re.compile(r"[A-Za-z]{2,}")


def identity() -> str:
    """Return what the corpus depends on: the interpreter and the installed packages with their versions."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in _distributions()})
    return " ".join([f"python=={platform.python_version()}", *packages])


def read_python_docs(dropped: Counter[str], advance: Advance = lambda _: None) -> Iterator[str]:
    """Yield the corpus in a fixed order, each text once; what is no prose is counted in `dropped`."""
    seen: set[bytes] = set()
    for text in _entries():
        advance(len(text))
        if len(text) < MIN_CHARACTERS:
            dropped["too short"] += 1
        elif not is_prose(text):
            dropped["not prose"] += 1
        else:
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
            if digest in seen:
                dropped["repeated"] += 1
            else:
                seen.add(digest)
                yield text


def is_prose(text: str) -> bool:
    """Whether most of `text` is words, and there are sentences' worth of them."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return letters >= MIN_PROSE * len(text) and len(_WORD.findall(text)) >= 15


def docstrings(path: Path) -> list[str]:
    """Return the docstrings of one source file, in the order in which `ast.walk` meets them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return [text for text in found if text]


def _entries() -> Iterator[str]:
    paths = sysconfig.get_paths()
    roots = list(dict.fromkeys(Path(paths[key]) for key in ("stdlib", "purelib", "platlib")))
    files = [file for root in roots for file in _python_files(root)]
    # Parsing takes most of the time; `map` keeps the files' order. Forked workers would inherit this process's
    # locks, and hold them on after a kill.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
        for texts in pool.map(docstrings, files, chunksize=64):
            yield from texts
    yield from _pydoc_topics(roots[0])
    for distribution in sorted(_distributions(), key=lambda d: (d.metadata["Name"] or "").lower()):
        metadata = distribution.metadata
        if isinstance(metadata, Message) and isinstance(description := metadata.get_payload(), str):
            yield description


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    """The packages of the environment's own folders.

    Not of all of `sys.path`: setuptools, once imported, adds the packages that it carries, and the text would be another one.
    """
    paths = sysconfig.get_paths()
    yield from importlib.metadata.distributions(path=list(dict.fromkeys(paths[key] for key in ("purelib", "platlib"))))


def _end_with_parent() -> None:
    """Have this worker leave with the process that started it: killed, that one leaves it waiting for work for ever."""

    def wait(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, args=(multiprocessing.parent_process(),), daemon=True).start()


def _python_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _pydoc_topics(stdlib: Path) -> Iterator[str]:
    """The language reference: string values of the dictionary that `pydoc_data/topics.py` assigns."""
    tree = ast.parse((stdlib / "pydoc_data" / "topics.py").read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (v.value for v in node.values if isinstance(v, ast.Constant) and isinstance(v.value, str))
