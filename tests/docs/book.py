#!/usr/bin/env python3
"""A preprocessor of mdBook for the documents of this project (`make docs`).

`docs/SUMMARY.md` names documents outside of docs/, such as ../README.md. They get a place at the root of the book. Links to
documents of the book lead to their pages. Links to other files lead to the checkout that the book was built in, which has
the book in target/book, or below REPOSITORY_URL where that is set.
"""

import json
import os
import posixpath
import re
import sys

LINK = re.compile(r"(\]\()([^()\s]+)(\))")
FENCE = re.compile(r"^( *```+).*?^\1`* *$", re.M | re.S)


def place(source: str) -> str:
    """Where a document stands in the book. `source` is relative to docs/."""
    if not source.startswith("../"):
        return re.sub(r"(^|/)README\.md$", r"\1index.md", source)
    flat = source.removeprefix("../").replace("/", "-")
    return "overview.md" if flat == "README.md" else flat.lower()


def rewrite(target: str, source: str, places: dict[str, str]) -> str:
    if re.match(r"[a-z]+:|#", target):
        return target
    file, _, anchor = target.partition("#")
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
    found = re.sub(r"^\.\./docs(/|$)", "", found)
    if f"{found}/README.md" in places:
        found = f"{found}/README.md"
    here = posixpath.dirname(places[source])
    if found in places:
        to = posixpath.relpath(places[found], here or ".")
    elif not found.startswith("../"):
        # Below docs/: a picture, or a folder.
        to = posixpath.relpath(found, here or ".")
    else:
        repository = os.environ.get("REPOSITORY_URL", posixpath.relpath("../..", here or "."))
        to = posixpath.join(repository, found.removeprefix("../"))
    return to + (f"#{anchor}" if anchor else "")


def links(text: str, source: str, places: dict[str, str]) -> str:
    def one(match: re.Match) -> str:
        return match[1] + rewrite(match[2], source, places) + match[3]

    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(one, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join(parts) + LINK.sub(one, text[end:])


def chapters(items: list) -> list[dict]:
    found = []
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            chapter = item["Chapter"]
            found += [chapter, *chapters(chapter["sub_items"])]
    return found


def main() -> None:
    if sys.argv[1:2] == ["supports"]:
        sys.exit(0 if sys.argv[2:3] == ["html"] else 1)
    _, book = json.load(sys.stdin)
    # mdBook 0.5 calls them items, earlier ones sections.
    every = [chapter for chapter in chapters(book.get("items") or book.get("sections")) if chapter["path"]]
    places = {posixpath.normpath(chapter["path"]): place(posixpath.normpath(chapter["path"])) for chapter in every}
    for chapter in every:
        source = posixpath.normpath(chapter["path"])
        chapter["content"] = links(chapter["content"], source, places)
        chapter["path"] = places[source]
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
