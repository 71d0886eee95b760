"""The README's figures are those of the committed result."""

from __future__ import annotations

import msgspec

from bench.readme import README, RESULT, figures, rendered


def test_the_readme_shows_what_was_measured() -> None:
    result = msgspec.json.decode(RESULT.read_bytes())
    readme = README.read_text()
    assert rendered(readme, result) == readme
    assert figures(result) in readme
