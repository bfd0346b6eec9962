"""Collections that lie in installed packages: newspaper texts judged by people, and the documentation of packages.

Lee, Pincombe and Welsh (2005): 50 newspaper texts whose likeness in pairs was judged by people, and 300 further
texts; they come with the package `gensim` (test data). Documentation: the summary line of a documented function or
class is a query, the rest of its docstring the document to find.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from foreknow.common.errors import InputError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int
from foreknow.data.text import Document, TextCollection

LIKE = 0.5
"""Mean likeness, of 0 to 1, from which a text counts as relevant to another."""
_MIN_WORDS = 30


def lee_news() -> TextCollection:
    """350 newspaper texts; the first sentence of each judged text is a query for the texts that people found alike.

    A grade is the mean likeness where it is at least `LIKE`. The text that a query comes from is graded -1: whoever
    evaluates leaves it out of the ranked list. Texts that nobody compared count as not relevant.

    Raises:
        InputError: the package `gensim` is not installed, or has no test data.
    """
    spec = importlib.util.find_spec("gensim")
    folder = Path(spec.origin).parent / "test" / "test_data" if spec and spec.origin else None
    if folder is None or not (folder / "similarities0-1.txt").is_file():
        raise InputError("the texts of Lee et al. come with the package gensim.", hint="Run: pip install gensim")
    judged = (folder / "lee.cor").read_text(encoding="latin-1").strip().split("\n")
    further = (folder / "lee_background.cor").read_text(encoding="latin-1").strip().split("\n")
    upper = np.triu(np.loadtxt(folder / "similarities0-1.txt"), 1)  # the file holds half of the matrix
    alike = upper + upper.T
    documents = [Document(f"judged-{i}", text) for i, text in enumerate(judged)]
    documents += [Document(f"further-{i}", text) for i, text in enumerate(further) if text.strip()]
    queries = {str(i): _first_sentence(text) for i, text in enumerate(judged)}
    grades = {
        str(i): {f"judged-{i}": -1.0} | {f"judged-{j}": float(alike[i, j]) for j in np.flatnonzero(alike[i] >= LIKE)}
        for i in range(len(judged))
    }
    return TextCollection("lee-news", tuple(documents), queries, grades)


def documentation(
    packages: tuple[str, ...] = ("numpy", "scipy", "sklearn"), n_documents: int | None = None, seed: int = 0
) -> TextCollection:
    """Docstrings of installed packages without their first paragraph, and the first paragraphs as queries.

    The id of a document is "package.module:name", so that queries can be split by module. Docstrings whose summary or
    body another one shares, whose summary has fewer than 4 words or whose body fewer than 30 are left out. Sources are
    parsed, not imported; another version of a package gives other documents.

    Args:
        packages: names of installed packages.
        n_documents: how many to take at random, None for all.
        seed: of that choice.

    Raises:
        InputError: a package is not installed, or there are fewer documents.
    """
    found = _summaries(tuple(packages))
    n_same: dict[str, int] = {}
    for pair in found.values():
        for part in pair:
            n_same[part] = n_same.get(part, 0) + 1
    kept = {
        name: (summary, body)
        for name, (summary, body) in found.items()
        if n_same[summary] == n_same[body] == 1 and len(summary.split()) >= 4 and len(body.split()) >= _MIN_WORDS
    }
    names = sorted(kept)
    if n_documents is not None:
        check_int("documentation", "n_documents", n_documents, low=1)
        if n_documents > len(names):
            raise InputError(f"documentation: {n_documents} documents were asked for, there are {len(names)}.")
        chosen = numpy_stream(seed, "documentation").permutation(len(names))[:n_documents]
        names = [names[i] for i in np.sort(chosen)]
    return TextCollection(
        "documentation",
        tuple(Document(name, kept[name][1]) for name in names),
        {name: kept[name][0] for name in names},
        {name: {name: 1.0} for name in names},
    )


@lru_cache(maxsize=4)
def _summaries(packages: tuple[str, ...]) -> Mapping[str, tuple[str, str]]:
    """Name -> summary and body of every docstring of some packages."""
    found: dict[str, tuple[str, str]] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise InputError(f"documentation: the package {package!r} is not installed.")
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            inner = path.relative_to(root).with_suffix("").parts
            if not any(part.startswith(("test", "conftest")) or part == "externals" for part in inner):
                for name, doc in _docstrings(path):
                    summary, _, body = doc.partition("\n\n")
                    found[f"{'.'.join([package, *inner])}:{name}"] = (" ".join(summary.split()), " ".join(body.split()))
    return found


def _docstrings(path: Path) -> list[tuple[str, str]]:
    """Names and docstrings of the public functions, classes and methods of a source file."""
    found: list[tuple[str, str]] = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
                if doc := ast.get_docstring(child):
                    found.append((prefix + child.name, doc))
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")

    try:
        visit(ast.parse(path.read_text(encoding="utf-8")), "")
    except (SyntaxError, ValueError, OSError):
        return []  # a template or a file for another version of Python
    return found


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", text.strip(), maxsplit=1)[0]
