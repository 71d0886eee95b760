"""The README's figures are those of the committed result."""

from __future__ import annotations

from measured import comparison_of, run_of

from bench.compare import RESULT, read
from bench.readme import README, figures, notes, rendered


def test_the_readme_shows_what_was_measured() -> None:
    result = read(RESULT)
    readme = README.read_text()
    assert rendered(readme, result) == readme
    assert figures(result) in readme


def test_what_is_not_the_same_is_said() -> None:
    runs = [run_of("aigw", 0, 20.0, 9.0), run_of("LiteLLM", 0, 9000.0, 9.0, "streams", cut=2)]
    found = comparison_of(runs)
    assert notes(found) == (
        "Not the same for all: LiteLLM: no rate limit; 2 of 3 failed in `streams`. Envoy: skipped."
    )
    assert "| LiteLLM 1 | – | – | – | 9,000 | – | – / – | – | – | – | – |" in figures(found)
