"""The rules of the house that a program can check; `./dev lint` runs it from the root.

Every rule is a function that yields one line per finding. The last line printed is
"N passed, N failed", counted in rules. functions.py measures functions."""

import os
import re
import subprocess
import sys

from functions import functions, strip

PRODUCT = ("config", "weights", "kernels", "models", "server")
FLOOR = {"config": 0, "weights": 1, "kernels": 1, "models": 2, "server": 3}
MAX_FILE, MAX_FUNCTION, MAX_COMPLEXITY = 1000, 120, 25
# Who may include a library's headers, as prefixes of paths.
LIBRARIES = (
    (r"uv\.h|uv/|llhttp|hiredis", ("server/",)),
    (r"cuda|cublas|curand|nvrtc|cooperative_groups", ("kernels/cuda/",)),
    (r"cjson/", ("server/", "weights/", "models/text/", "config/options.c")),
    (r"openssl/", ("server/digest.c",)),
    (r"config/log\.h", ("server/", "config/log.c")),
)
# Calls that are not made, and the files that may make them all the same.
CALLS = (
    (r"strcpy|strcat|v?sprintf|gets|strtok|alloca|atoi|atol|atoll|atof|s?rand|system", ()),
    (r"strto[a-z]+", ("config/options.c", "server/api/")),
    (r"(secure_)?getenv", ("config/options.c",)),
    (r"exit|_exit|quick_exit|abort", ("server/",)),
    (r"v?f?printf|puts|perror", ("server/", "config/")),
)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def tracked():
    # The checkout of a CI job or a container may belong to another user.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, check=True, text=True,
                           stdout=subprocess.PIPE).stdout.split("\n")
    return sorted(n for n in names if n and os.path.isfile(n))


FILES = tracked()
SOURCES = [f for f in FILES if f.endswith((".c", ".h", ".cu", ".cuh"))]
OURS = [f for f in SOURCES if f.startswith(tuple(p + "/" for p in PRODUCT))]
TEXT = {f: read(f) for f in SOURCES}
CODE = {f: strip(TEXT[f]) for f in SOURCES}


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def includes(path):
    """(line, spelled with <> or "", name) of each include."""
    for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)', TEXT[path], re.MULTILINE):
        yield line_of(TEXT[path], m.start()), m[1], m[2]


def formatted():
    """clang-format would change nothing"""
    run = subprocess.run(["clang-format", "--dry-run", "--ferror-limit=3"] + SOURCES, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    yield from re.findall(r"^\S+:\d+:\d+: .*$", run.stdout, re.MULTILINE)
    if run.returncode:
        yield f"clang-format failed: {run.returncode}"


def layered():
    """lower floors do not include higher ones; libraries stay on their floors"""
    for path in OURS:
        folder = path.split("/")[0]
        for line, mark, name in includes(path):
            where, target = f"{path}:{line}", name.split("/")[0]
            if target in FLOOR and target != folder and FLOOR[target] >= FLOOR[folder]:
                yield f"{where}: {folder}/ does not include {target}/"
            for pattern, allowed in LIBRARIES:
                if re.match(pattern, name) and not path.startswith(allowed):
                    yield f"{where}: {name} is included only in {', '.join(allowed)}"


def included_from_the_root():
    """includes are written from the root, own header first, internal headers at home"""
    for path in OURS:
        own = re.sub(r"\.(c|cu)$", ".h", path)
        found = list(includes(path))
        if own != path and own in TEXT and (not found or found[0][2] != own):
            yield f"{path}: {own} is not its first include"
        for line, mark, name in found:
            if mark == '"' and name not in TEXT and "/" in name:
                yield f"{path}:{line}: no file {name}"
            elif mark == '"' and "/" not in name and os.path.dirname(path):
                if os.path.exists(os.path.join(os.path.dirname(path), name)):
                    yield f"{path}:{line}: {name} is not written from the root"
            if name.endswith("_internal.h") and os.path.dirname(name) != os.path.dirname(path):
                yield f"{path}:{line}: {name} is for its own folder"


def files_are_short():
    """no file has more lines than the limit"""
    for path in SOURCES:
        lines = TEXT[path].count("\n")
        if lines > MAX_FILE:
            yield f"{path}: {lines} lines, at most {MAX_FILE}"


def functions_are_short():
    """no function has more lines than the limit"""
    for path in SOURCES:
        for f in functions(CODE[path]):
            if f.lines > MAX_FUNCTION:
                yield f"{path}:{f.line}: {f.name}: {f.lines} lines, at most {MAX_FUNCTION}"


def functions_are_simple():
    """no function has more ways through it than the limit"""
    for path in SOURCES:
        for f in functions(CODE[path]):
            if f.complexity > MAX_COMPLEXITY:
                yield (f"{path}:{f.line}: {f.name}: complexity {f.complexity}, "
                       f"at most {MAX_COMPLEXITY}")


def headers_stand_alone():
    """every header compiles alone"""
    packages = ["libuv", "libcjson", "libpcre2-8", "libutf8proc", "libxxhash", "libcrypto"]
    flags = subprocess.run(["pkg-config", "--cflags"] + packages, text=True, check=False,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.split()
    compiler = os.environ.get("CC", "gcc").split()
    command = compiler + ["-std=c17", "-D_GNU_SOURCE", "-I.", "-isystem",
                          "/usr/share/include/llhttp", "-fsyntax-only", "-x", "c", "-"] + flags
    for path in SOURCES:
        if path.endswith(".h"):
            run = subprocess.run(command, input=f'#include "{path}"\n', text=True, check=False,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if run.returncode:
                yield f"{path}: does not compile alone\n{run.stdout}"


def calls_are_allowed():
    """banned functions are not called"""
    for path in OURS:
        for pattern, allowed in CALLS:
            if path.startswith(allowed):
                continue
            for m in re.finditer(rf"(?<![\w.>])({pattern})\s*\(", CODE[path]):
                yield f"{path}:{line_of(CODE[path], m.start())}: {m[1]}() is not used here"


def words_are_allowed():
    """no typedef of a struct, no note of work left, ASCII only"""
    for path in SOURCES:
        for m in re.finditer(r"\btypedef\s+(struct|union|enum)\b", CODE[path]):
            yield f"{path}:{line_of(CODE[path], m.start())}: typedef {m[1]}"
        for m in re.finditer(r"\b(TODO|FIXME|XXX|HACK)\b|[^\x00-\x7f]", TEXT[path]):
            if path in OURS:
                yield f"{path}:{line_of(TEXT[path], m.start())}: {m[0]!r}"


def options_are_read():
    """every option has a reader outside config/"""
    body = re.search(r"^struct options \{(.*?)^\};", CODE["config/options.h"], re.S | re.M)
    if not body:
        yield "config/options.h: no struct options"
        return
    fields = re.findall(r"(\w+)(?:\[\w+\])?\s*;", body[1])
    readers = "".join(CODE[f] for f in OURS
                      if not f.startswith("config/") and '"config/options.h"' in TEXT[f])
    for name in fields:
        # These two are how options.c tells --print-config where the others come from.
        if name not in ("config", "origin") and not re.search(rf"(->|\.){name}\b", readers):
            yield f"config/options.h: nothing reads {name}"


def marked(name):
    """The README's text between two markers, or None."""
    if not os.path.isfile("README.md"):
        return None
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", read("README.md"), re.S)
    return found[1] if found else None


def readme_has_the_map():
    """the README's code map names every source file, and no file that is gone"""
    code_map = marked("map")
    if code_map is None:
        yield "README.md: no <!-- map:begin --> ... <!-- map:end -->"
        return
    named = set()
    for stem, ends in re.findall(r"([\w./-]+)\.(\{[\w,]+\}|\[\w+\]|\w+)", code_map):
        for end in re.split(r",", ends.strip("{}")) if "[" not in ends else ends.strip("[]"):
            named.add(f"{stem}.{end}")
    for path in OURS:
        if path not in named:
            yield f"README.md: the code map lacks {path}"
    for path in sorted(named):
        if path.startswith(tuple(p + "/" for p in PRODUCT)) and path not in FILES:
            yield f"README.md: the code map names {path}, which is not there"


def readme_has_the_options(eddy):
    """the README's option table is what eddy --print-options prints"""
    table = marked("options")
    if table is None:
        yield "README.md: no <!-- options:begin --> ... <!-- options:end -->"
    elif not os.access(eddy, os.X_OK):
        yield f"{eddy}: not built"
    else:
        printed = subprocess.run([eddy, "--print-options"], text=True, check=False,
                                 stdout=subprocess.PIPE).stdout
        if table.strip() != printed.strip():
            yield f"README.md: the option table is not what {eddy} --print-options prints"


def main(eddy):
    rules = (formatted, layered, included_from_the_root, files_are_short, functions_are_short,
             functions_are_simple, headers_stand_alone, calls_are_allowed, words_are_allowed,
             options_are_read, readme_has_the_map, readme_has_the_options)
    failed = 0
    for rule in rules:
        found = list(rule(eddy) if rule is readme_has_the_options else rule())
        print(f"{'not ok' if found else 'ok'} - {rule.__doc__}")
        for finding in found:
            print(f"    {finding}")
        failed += bool(found)
    print(f"{len(rules) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
