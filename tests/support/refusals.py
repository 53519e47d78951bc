"""Inputs that `cr-hf` must refuse: one line that names thing, place and mend, exit code 2, and nothing written."""

import re
import sys
from pathlib import Path

import pytest

import cr_hf.cli

RUN, BACKBONE, OUT, HERE, DEMO = "RUN", "BACKBONE", "OUT", "HERE", "DEMO"
"""In arguments: a finished run, a tiny backbone, a folder that is not there yet, the scratch folder, a recipe."""
GOOD = b"text,label\n" + b"".join(
    b"a %s film number %d,%d\n" % (w, i, j) for i in range(6) for j, w in enumerate((b"bad", b"fine"))
)
"""A CSV file that can be trained on."""


def tree(folder: Path) -> dict[str, int]:
    """The files below a folder with their sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


class CommandLine:
    """Runs `cr-hf` in this process, with the words of the tables below in the place of the paths of a test."""

    def __init__(
        self, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        self.places, self.monkeypatch, self.capsys = places, monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        words = []
        for word in arguments:
            for name, path in self.places.items():
                word = re.sub(rf"\b{name}\b", str(path), word)
            words.append(word)
        self.monkeypatch.setattr(sys, "argv", ["cr-hf", *words])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cr_hf.cli.main()
        return int(stopped.value.code or 0), *self.capsys.readouterr()

    def refuses(self, message: str, *arguments: str) -> None:
        """One line, exit code 2, and not a byte written."""
        before = tree(self.places[HERE])
        code, _, errors = self(*arguments)
        assert code == 2, errors
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert errors.endswith(f"{lines[0]}\n"), "more lines after the error"
        assert "Traceback" not in errors
        line = lines[0].removeprefix("error: ")
        for name, path in self.places.items():
            line = line.replace(str(path), name)
        assert message in line
        assert len(line) < 1000
        assert tree(self.places[HERE]) == before
