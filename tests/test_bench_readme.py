"""The README's figures are those of the committed result."""

from __future__ import annotations

from bench.compare import RESULT, read
from bench.readme import README, figures, rendered


def test_the_readme_shows_what_was_measured() -> None:
    result = read(RESULT)
    readme = README.read_text()
    assert rendered(readme, result) == readme
    assert figures(result) in readme
