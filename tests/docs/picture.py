#!/usr/bin/env python3
"""The picture of a run in README.md: docs/images/run.svg, drawn from the transcript docs/images/run.txt.

    picture.py record  < output   writes both files from the output of `efs-autoscale local run`
    picture.py check              fails when run.svg is not what run.txt draws
    picture.py compare < output   fails when a run prints other lines than run.txt, apart from numbers and ids

Progress lines and the result line are not part of the transcript.
"""

import difflib
import html
import re
import sys
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
TRANSCRIPT, PICTURE = IMAGES / "run.txt", IMAGES / "run.svg"

COLUMNS = 116
CHARACTER_WIDTH, LINE_HEIGHT, FONT_SIZE, MARGIN, TITLE_BAR = 7.8, 18, 13, 16, 32

PROGRESS = re.compile(r"^ *[\d.]+ s  ")
# "  files         150,000": a name of a row, and its text.
ROW = re.compile(r"^(  )([a-z][a-z ]*?)( {2,})(.*)$")


def transcript(output: str) -> list[str]:
    lines = [line.rstrip() for line in output.splitlines()]
    lines = [line for line in lines if not PROGRESS.match(line) and not line.startswith("result: ")]
    # Blank lines only between two lines of text.
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip("\n")).split("\n")


def crop(line: str) -> str:
    return line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"


def draw(lines: list[str]) -> str:
    """An SVG of a terminal with these lines."""

    def escape(text: str) -> str:
        # Not every renderer of SVG keeps runs of ordinary spaces.
        return html.escape(text).replace(" ", "\N{NO-BREAK SPACE}")

    def span(text: str, kind: str) -> str:
        return f'<tspan class="{kind}">{escape(text)}</tspan>' if text else ""

    def body(line: str) -> str:
        row = ROW.match(line)
        if line.startswith("$ "):
            return span("$ ", "dim") + span(line[2:], "title")
        if line and not line.startswith(" "):
            return span(line, "bad" if line.startswith("NOT AS EXPECTED") else "title")
        if row:
            indent, name, gap, text = row.groups()
            return escape(indent) + span(name, "name") + escape(gap + text)
        if line.endswith("  new"):
            return escape(line[:-3]) + span("new", "new")
        return escape(line)

    lines = [crop(line) for line in ["$ make run", "", *lines]]
    width = round(COLUMNS * CHARACTER_WIDTH + 2 * MARGIN)
    height = TITLE_BAR + len(lines) * LINE_HEIGHT + MARGIN
    texts = [
        f'<text x="{MARGIN}" y="{TITLE_BAR + (number + 1) * LINE_HEIGHT - 4}">{body(line)}</text>'
        for number, line in enumerate(lines)
        if line
    ]
    dots = [
        f'<circle cx="{MARGIN + 6 + 20 * number}" cy="16" r="6" fill="{colour}"/>'
        for number, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
            "<title>Output of make run</title>",
            "<style>",
            f"text {{ font: {FONT_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; "
            "fill: #d4d4d4 }",
            ".title { fill: #ffffff; font-weight: bold } .name { fill: #7fb8e6 } .dim { fill: #8a8a8a }",
            ".new { fill: #7ec97e; font-weight: bold } .bad { fill: #f08080; font-weight: bold }",
            "</style>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#1e1e1e"/>',
            *dots,
            *texts,
            "</svg>",
            "",
        ]
    )


def masked(lines: list[str]) -> list[str]:
    """The lines without what differs from run to run: ids, numbers, the length of bars, the number of polls."""
    text = "\n".join(lines)
    text = re.sub(r'\{"mount_targets":.*', "{…}", text)
    text = re.sub(r"\b(fsmt|subnet|eni)-[0-9a-f]+|\becs-svc/\w+", "id", text)
    text = re.sub(r"(WaitForTarget → PollAvailable → TargetReady → )+", r"\1", text)
    text = re.sub(r"(cut off .*); .*", r"\1", text)
    text = re.sub(r"\d[\d,.]*", "0", text)
    lines = [re.sub(r"(?<=\S) +", " ", line.replace("█", "")).rstrip() for line in text.split("\n")]
    return [re.sub(r"^ {3,}", "   ", line) for line in lines]


def fail(expected: list[str], found: list[str], names: tuple[str, str]) -> None:
    sys.stdout.writelines(line + "\n" for line in difflib.unified_diff(expected, found, *names, lineterm=""))
    sys.exit("docs/images/run.svg is out of date: `make picture` draws it again")


def main() -> None:
    match sys.argv[1:]:
        case ["record"]:
            lines = transcript(sys.stdin.read())
            if not lines[0]:
                sys.exit("picture.py: no output to draw")
            if any(line.startswith("NOT AS EXPECTED") for line in lines):
                sys.exit("picture.py: the run did not end as expected; the picture is unchanged")
            IMAGES.mkdir(exist_ok=True)
            TRANSCRIPT.write_text("\n".join(lines) + "\n")
            PICTURE.write_text(draw(lines))
        case ["check"]:
            expected = draw(TRANSCRIPT.read_text().splitlines()).splitlines()
            found = PICTURE.read_text().splitlines()
            if expected != found:
                fail(expected, found, ("drawn from run.txt", "run.svg"))
        case ["compare"]:
            expected, found = masked(TRANSCRIPT.read_text().splitlines()), masked(transcript(sys.stdin.read()))
            if expected != found:
                fail(expected, found, ("run.txt", "this run"))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
