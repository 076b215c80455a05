"""Finds hard-to-read expressions in changed lines of Python files and documents; ``make lint`` runs this.

Compares the working tree with ``origin/main``, or with the last commit if there is no such branch. An argument names
another commit. ``accepted_sentences.txt`` lists lines that are right despite an expression.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ACCEPTED = Path(__file__).with_name("accepted_sentences.txt")
OMITTED = (":!tests/*/*hard_sentences.py", ":!bench/results")  # results quote the notes of older measurements
EXPRESSIONS = {
    r"\b(?:[Tt]hose|[Tt]hat) (?:of|that|which|whose) |\b[Oo]f which\b|^Whose\b": "repeat the noun",
    r'(?:^|"""|[.:;,(] ?|# )[Ww]hat (?!is |are |does |do |= )': "name the thing",
    r"\bso (?:many|much)\b|\bas (?:built|usual)\b": "name the number or the state",
    r"\b(?:has|have|with) (?:one|none|several)(?=[,.;:)]| and | or |$)": "write the noun",
}


def search(diff: str) -> list[str]:
    """Returns ``file:line: cure: text`` for each added line of ``git diff --unified=0`` that has an expression."""
    accepted = set(ACCEPTED.read_text().splitlines())
    found, path, number = [], "", 0
    for line in diff.splitlines():
        if line.startswith("+++ "):
            path = line[6:]
        elif line.startswith("@@ "):
            number = int(re.findall(r"\+(\d+)", line)[0])
        elif line.startswith("+"):
            text = line[1:].strip()
            found += [
                f"{path}:{number}: {cure}: {text}"
                for expression, cure in EXPRESSIONS.items()
                if text not in accepted and re.search(expression, text)
            ]
            number += 1
    return found


def git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main(since: str = "") -> None:
    if not (ROOT / ".git").exists():
        return  # a release has no changed lines
    remote = git("branch", "--remotes", "--list", "origin/main")
    base = since or (git("merge-base", "HEAD", "origin/main").strip() if remote else "HEAD")
    found = search(git("diff", "--unified=0", base, "--", "*.py", "*.md", *OMITTED))
    print("\n".join(found), end="\n" if found else "")
    if found:
        sys.exit(f"rewrite {len(found)} lines, or add a line that is right to {ACCEPTED.relative_to(ROOT)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
