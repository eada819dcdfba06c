"""Runs every property test again and again, each time from a fresh seed, until the minutes are over or one fails.

`make test` runs them from one fixed seed (`.cargo/config.toml`), so that a run is repeatable. This program searches further.
It prints the command that replays a failure.

usage: explore.py MINUTES [nextest arguments]
"""

import os
import pathlib
import re
import secrets
import subprocess
import sys
import time

PROJECT = pathlib.Path(__file__).parent.parent
# `proptest! { … fn name(…) … }`, at any depth.
BLOCK = re.compile(r"^(?P<indent> *)proptest! \{\n(?P<body>.*?)^(?P=indent)\}$", re.M | re.S)
NAME = re.compile(r"^ *fn (\w+)\(", re.M)
FUNCTION = re.compile(
    r"^(?P<indent> *)(?P<test>#\[(?:tokio::)?test)?(?:[^\n]*\]\n(?P=indent))?(?:async )?fn (?P<name>\w+)\((?P<body>.*?)\n(?P=indent)\}$",
    re.M | re.S,
)


def properties(text: str) -> set[str]:
    """The names of the property tests in a source file, those that a helper function runs included."""
    functions = list(FUNCTION.finditer(text))
    drivers = ["proptest!(", "TestRunner::"]
    drivers += [f"{one['name']}(" for one in functions if not one["test"] and any(call in one["body"] for call in drivers)]
    tests = {one["name"] for one in functions if one["test"] and any(call in one["body"] for call in drivers)}
    return tests.union(*(NAME.findall(block["body"]) for block in BLOCK.finditer(text)))


def main() -> int:
    if len(sys.argv) < 2 or not re.fullmatch(r"\d{1,4}(\.\d+)?", sys.argv[1]):
        print("explore: MINUTES: expected a number of minutes, such as MINUTES=10", file=sys.stderr)
        return 2
    sources = (path for folder in ("crates", "functions", "tests") for path in (PROJECT / folder).rglob("*.rs"))
    names = sorted(set().union(*(properties(path.read_text()) for path in sources)))
    # The name after the last `::`, and nothing that only contains it.
    expression = "test(/(^|::)(" + "|".join(names) + ")$/)"
    end = time.monotonic() + 60 * float(sys.argv[1])
    rounds = 0
    print(f"{len(names)} property tests, {sys.argv[1]} minutes", flush=True)
    while time.monotonic() < end:
        seed = str(secrets.randbits(63))
        command = ["cargo", "nextest", "run", "--locked", "--workspace", "--no-fail-fast", "-E", expression, *sys.argv[2:]]
        run = subprocess.run(
            [*command, "--status-level", "fail", "--final-status-level", "fail"],
            cwd=PROJECT,
            env=os.environ | {"PROPTEST_RNG_SEED": seed},
        )
        if run.returncode != 0:
            print(f"\nreplay: PROPTEST_RNG_SEED={seed} make t T=NAME P=CRATE, with a name from above", file=sys.stderr)
            return 1
        rounds += 1
        print(f"round {rounds}: seed {seed}: all hold", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
