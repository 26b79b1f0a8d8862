"""A tutorial's blocks, and a shell that does what they say.

A block of Python or TOML whose first line is a comment that names a file is that file's content;
with ", continued" behind the name it is put at the file's end. In a block of `console`, what stands
behind `$ ` is run, and the lines below must be among the lines of its output, in that order; `...`
stands for anything, and a run of spaces for any other.
"""

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NAMED = re.compile(r"# (\S+/\S+\.\w+)(, continued)?\n")
END = "end-of-command"


@dataclass(frozen=True)
class File:
    """A block that goes into a file."""

    path: str
    content: str
    continued: bool

    def write(self, folder):
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        before = target.read_text().rstrip("\n") + "\n" if self.continued else ""
        target.write_text(before + self.content)


@dataclass(frozen=True)
class Command:
    """A command, and lines that it must print."""

    line: str
    expected: tuple[str, ...]

    def missing(self, output):
        """The first line that is not there; None if all are."""
        rest = iter(output.splitlines())
        for wanted in self.expected:
            pattern = re.compile(as_pattern(wanted))
            if not any(pattern.fullmatch(line.rstrip()) for line in rest):
                return wanted
        return None


def as_pattern(wanted):
    pieces = [r"\s+".join(map(re.escape, re.split(r"\s+", p))) for p in wanted.split("...")]
    return r"\s*" + ".*".join(pieces)


def blocks(document):
    """All blocks as (language, content)."""
    return BLOCK.findall(document.read_text())


def steps(document):
    """Files and commands, in order."""
    found = []
    for language, content in blocks(document):
        named = NAMED.match(content)
        if language == "console":
            found += commands(content)
        elif named:
            body = content if not named[2] else content[named.end() :]
            found.append(File(named[1], body, bool(named[2])))
    return found


def commands(content):
    found = []
    for part in re.split(r"^\$ ", content, flags=re.M)[1:]:
        lines = part.splitlines()
        size = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
        expected = tuple(line for line in lines[size:] if line.strip())
        found.append(Command("\n".join(lines[:size]), expected))
    return found


class Shell:
    """One bash for a whole tutorial, so that what a reader would still have is there."""

    def __init__(self, folder: Path, environment):
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()

    def run(self, line):
        """Exit code and output of a command."""
        self.process.stdin.write(f"{line}\n__code=$?; printf '\\n{END} %s\\n' $__code\n")
        self.process.stdin.flush()
        output = []
        for printed in self.process.stdout:
            if printed.startswith(END):
                return int(printed.split()[1]), "".join(output)
            output.append(printed)
        raise AssertionError(f"the shell ended with {line!r}:\n{''.join(output)}")


def follow(document, folder, environment):
    """Do all that a tutorial says; give (command, seconds) for each one, as it is done."""
    with Shell(folder, environment) as shell:
        for step in steps(document):
            if isinstance(step, File):
                step.write(folder)
                continue
            start = time.monotonic()
            code, output = shell.run(step.line)
            seconds = time.monotonic() - start
            assert code == 0, f"$ {step.line}\n{output}\nexit code {code}"
            missing = step.missing(output)
            assert missing is None, f"$ {step.line}\n{output}\nlacks the line: {missing}"
            yield step.line, seconds
