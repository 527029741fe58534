"""Docstrings of functions begin with a verb in the imperative, as in PyTorch's documentation."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import REPOSITORY

# Articles, pronouns, prepositions and conjunctions.
NO_VERB = re.compile(
    r"a|an|the|this|that|these|those|what|which|who|whom|whose|whether|how|where|when|why|it|its|he|she|they|one|some|"
    r"any|no|not|nothing|all|every|each|either|several|both|whatever|whoever|of|in|on|at|by|from|with|without|as|for|to|"
    r"into|between|only|there|here|if|and|or|but"
)
VERBS = ("embed", "feed", "seed", "need", "bring")


def is_imperative(word: str) -> bool:
    """Return whether a word can be an imperative: no article, pronoun or preposition, no `Returns` or `Returned`."""
    lower = word.lower()
    is_third_person = lower.endswith("s") and not lower.endswith("ss")
    is_participle = lower.endswith(("ed", "ing")) and lower not in VERBS
    return word.isalpha() and not NO_VERB.fullmatch(lower) and not is_third_person and not is_participle


def docstrings_of_functions(source: str) -> list[tuple[int, str]]:
    """Return line and docstring of each function except properties, whose docstrings are nouns."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not decorators & {"property", "cached_property"}:
                found.append((node.lineno, text))
    return found


@pytest.mark.parametrize("folder", ["pipeline", "stages", "tools", "benchmarks", "tests/support"])
def test_docstrings_of_functions_begin_with_a_verb(folder: str) -> None:
    paths = sorted(REPOSITORY.glob(f"{folder}/**/*.py"))
    assert paths
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}: {text.splitlines()[0]}"
        for path in paths
        for line, text in docstrings_of_functions(path.read_text(encoding="utf-8"))
        if not is_imperative(text.split()[0].rstrip(",.:;"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "first", ["The", "Whether", "Returns", "Loaded", "Making", "Of", "What", "(height,", "`label_of`"]
)
def test_other_first_words_are_found(first: str) -> None:
    ((_, text),) = docstrings_of_functions(f'def f():\n    """{first} features of a clip."""\n')
    assert not is_imperative(text.split()[0])


@pytest.mark.parametrize("first", ["Return", "Process", "Seed", "Compress", "Bring"])
def test_verbs_pass(first: str) -> None:
    assert is_imperative(first)
