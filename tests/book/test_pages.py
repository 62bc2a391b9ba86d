"""Every question page of the table of contents has the parts of the standard, in its order."""

import re
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
SECTIONS = [
    "The mathematics",
    "The reference code",
    "See it move",
    "What we measured",
    "Where it goes wrong in practice",
    "What interviewers ask next",
    "Practise",
    "Papers",
]
# What exercises of the assignments ask for.
GRADED = {"newton_step", "saddle_free_newton_step", "bfgs_inverse_update", "lbfgs_direction"}
TOC = yaml.safe_load((PROJECT / "_toc.yml").read_text(encoding="utf-8"))
QUESTIONS = [section["file"] for chapter in TOC["chapters"] for section in chapter.get("sections", [])]


def read(page):
    return (PROJECT / f"{page}.md").read_text(encoding="utf-8")


def without_code(text):
    """The prose: no front matter, code cells, other fences' first lines, options or formulas."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^(`{3,})\{(code-cell|literalinclude|claim|footbibliography)\}.*?^\1", "", text, flags=re.M | re.S)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "x", text, flags=re.DOTALL)
    return re.sub(r"^(`{3,}.*|:[a-z-]+:.*)$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", QUESTIONS)
def test_the_sections_stand_in_order(page):
    cells_removed = re.sub(r"^(`{3,})\{code-cell\}.*?^\1", "", read(page), flags=re.M | re.S)
    assert re.findall(r"^## (.+)$", cells_removed, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("page", QUESTIONS)
def test_the_page_opens_with_the_question_and_its_short_answer(page):
    text = read(page)
    assert len(re.findall(r"^# .+\?$", text, re.MULTILINE)) == 1
    answer = re.search(r"```\{admonition\} The answer in thirty seconds\n:class: answer\n(.*?)```", text, re.DOTALL)
    assert 40 <= len(answer[1].split()) <= 130


@pytest.mark.parametrize("page", QUESTIONS)
def test_the_length_is_that_of_a_page(page):
    assert 900 <= len(without_code(read(page)).split()) <= 2600


@pytest.mark.parametrize("page", QUESTIONS)
def test_what_would_answer_an_exercise_is_folded(page):
    text = read(page)
    shown = re.finditer(r"\{literalinclude\}[^`]*?:pyobject: (\w+)", text)
    for fence in (fence for fence in shown if fence[1] in GRADED):
        before = text[: fence.start()]
        assert before.rfind("{dropdown} Solve it first") > before.rfind("\n## "), f"{fence[1]} stands open"


@pytest.mark.parametrize("page", QUESTIONS)
def test_interviewers_questions_have_folded_answers(page):
    part = read(page).split("## What interviewers ask next")[1].split("\n(")[0].split("\n## ")[0]
    assert 4 <= len(re.findall(r"\{dropdown\} [^\n]*\?$", part, re.MULTILINE)) <= 6
