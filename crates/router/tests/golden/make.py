"""Prints sha256-modulo.txt: for 1,000 paths, the index that the original design's line of Python gives for 1 to 10 targets.

A line has ten digits, one for each number of targets, and the path's bytes in hexadecimal.
Nothing here is random: every Python prints the same. `python3 make.py > sha256-modulo.txt` makes the file anew.
"""

import hashlib
import sys


def index(path: bytes, count: int) -> int:
    return int(hashlib.sha256(path).hexdigest(), 16) % count


def noise(name: str, length: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(length)


def paths():
    yield b""
    # As people call them.
    for user in range(300):
        yield b"user/%d/document.pdf" % (12345 + user * 7919)
    for each in range(150):
        yield "backup/2024-%02d-%02d/db-%d.dump" % (each % 12 + 1, each % 28 + 1, each)
    # The same letters, composed and not; letters of two, three and four bytes; right to left.
    for each in range(50):
        for text in ("gr\u00fc\u00dfe/%d", "gru\u0308\u00dfe/%d", "\u6587\u4ef6/%d", "\U0001f5c2/%d.txt", "\u05de\u05e1\u05de\u05da/%d"):
            yield text % each
    # What the service would refuse, and what it must not take for the same.
    for odd in (".", "..", "/", "//", "a", "a/", "/a", "a//b", "A", "a ", " a", "a\n", "a\tb", "a%2Fb", "a%20b", "a\\b", "a\0b"):
        yield odd
    # Bytes that are no text, as os.fsdecode hands them out.
    for each in range(130):
        yield noise(f"bytes {each}", 2 + each % 64).decode("utf-8", "surrogateescape")
    # Where SHA-256 begins another block, and the longest that there are.
    for length in (*range(48, 72), *range(112, 136), 255, 256, 1023, 1024, 4095, 4096):
        yield b"x" * length
    for each in range(98):
        yield noise(f"long {each}", 130 + each).replace(b"\0", b"/")


def main() -> None:
    made = [path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape") for path in paths()]
    assert len(made) == len(set(made)) == 1000, (len(made), len(set(made)))
    for path in made:
        sys.stdout.write("".join(str(index(path, count)) for count in range(1, 11)) + " " + path.hex() + "\n")


if __name__ == "__main__":
    main()
