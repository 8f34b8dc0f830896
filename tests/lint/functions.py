"""Where C functions begin and end, and how many ways lead through them.

No compiler: comments, literals and directives are blanked, then braces are counted. The
code is clang-formatted, so that is enough. Complexity is McCabe's, a switch counted once
whatever its cases."""

import re
from collections import namedtuple

Function = namedtuple("Function", "name line lines complexity")

TOKEN = re.compile(
    r"/\*.*?\*/|//[^\n]*"  # comments
    r"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"  # literals
    r"|^[ \t]*#(?:\\\n|[^\n\\]|\\.)*",  # directives, with the macros they define
    re.S | re.M)
BRANCH = re.compile(r"\b(?:if|for|while|switch)\b|&&|\|\||\?")
NAME = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


def strip(text):
    """The text with everything that is not code blanked; positions and lines are kept."""
    return TOKEN.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def functions(code):
    """Every function of stripped code."""
    depth, start = 0, 0
    opened = None
    for m in re.finditer(r"[{};]", code):
        if m[0] == "{":
            head = code[start:m.start()]
            if depth == 0 and head.strip() == "extern":  # extern "C"
                start = m.end()
                continue
            if depth == 0:
                opened = (head, m.start())
            depth += 1
        elif m[0] == "}" and depth:
            depth -= 1
            if depth == 0:
                yield from measure(code, *opened, m.end())
                start = m.end()
        elif depth == 0:
            start = m.end()


def measure(code, head, brace, end):
    """The function whose head is the text before its brace; nothing for other braces."""
    name = NAME.search(re.sub(r"__attribute__\s*\(\(.*?\)\)\)?", "", head, flags=re.S))
    if "=" in head or not name or not head.rstrip().endswith(")"):
        return
    line = code.count("\n", 0, brace - len(head.lstrip())) + 1
    last = code.count("\n", 0, end) + 1
    yield Function(name[1], line, last - line + 1,
                   1 + len(BRANCH.findall(code, brace, end)))
