"""Counts the test cases of a Meson run and shows the failed ones.

Reads meson-logs/testlog.json, one JSON object a line. A program that speaks TAP counts by
its cases, any other as one. A program that failed without saying which case (a crash, a
timeout, a sanitizer's report) counts as one failure, and so does a run without a log.
The last line is "N passed, N failed"; the exit code is 0 when something passed and nothing
failed."""

import json
import re
import sys

CASE = re.compile(r"^(not )?ok\b[ \t]*\d*[ \t]*(?:- )?(.*)$", re.MULTILINE)
PLAN = re.compile(r"^1\.\.\d+", re.MULTILINE)


def cases(run):
    """The program's cases as (name, passed); skipped ones are left out."""
    out = run.get("stdout", "")
    if not PLAN.search(out):
        return [("the program", True)] if run["result"] == "OK" else []
    return [(c[2], not c[1]) for c in CASE.finditer(out) if "# SKIP" not in c[2].upper()]


def main(path):
    passed = failed = 0
    try:
        with open(path, encoding="utf-8") as log:
            runs = [json.loads(line) for line in log]
    except (OSError, ValueError) as problem:
        print(f"no test ran: {problem}")
        runs, failed = [], 1
    for run in runs:
        if run["result"] == "SKIP":
            print(f"{run['name']}: skipped")
            continue
        results = cases(run)
        bad = [name for name, good in results if not good]
        if not bad and run["result"] != "OK":
            bad = [f"{run['result']}, exit status {run.get('returncode')}"]
        passed += sum(good for _, good in results)
        failed += len(bad)
        if bad:
            print(f"\n--- {run['name']}: {'; '.join(bad)}")
            for stream in ("stdout", "stderr"):
                print("\n".join(run.get(stream, "").splitlines()[-200:]))
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


sys.exit(main(sys.argv[1]))
