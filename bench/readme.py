"""The README's figures, rendered from a result file, never typed.

python -m bench.readme                 writes them between the marks in README.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench" / "results" / "first.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures of bench/results/first.json -->", "<!-- end of figures -->"
CONTENDERS = ("nginx", "nginx, equal duties", "aigw")


def figures(result: dict[str, Any]) -> str:
    """Medians as a Markdown table: CPU per request, its ratio to nginx's, latency."""
    machine = result["machine"]
    lines = [
        f"Medians of {result['repetitions']} alternating runs on {result['at'][:10]}: one worker "
        f"each, {machine['cores']} shared cores ({machine['cpu']}), {machine['python']}, "
        f"uvloop {machine['uvloop']}, {machine['nginx']}. CPU is user and system time of the whole "
        "process tree; nginx with equal duties checks a key, limits, swaps it and logs as well.",
        "",
        "| load | who | CPU µs per request | against nginx, equal duties | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    medians = {(row["scenario"], row["contender"]): row for row in result["medians"]}
    for scenario, meaning in result["scenarios"].items():
        base = medians[scenario, "nginx, equal duties"]["cpu_us_per_request"]
        for contender in CONTENDERS:
            row = medians[scenario, contender]
            cpu_us = row["cpu_us_per_request"]
            lines.append(
                f"| {meaning} | {contender} | {cpu_us:.0f} | {cpu_us / base:.2f} × "
                f"| {row['p50_us'] / 1000:.2f} | {row['p99_us'] / 1000:.2f} |"
            )
    return "\n".join(lines)


def rendered(readme: str, result: dict[str, Any]) -> str:
    """The README with the figures of `result` between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{figures(result)}\n\n{END}{after}"


def main() -> None:
    result = msgspec.json.decode(RESULT.read_bytes())
    README.write_text(rendered(README.read_text(), result))


if __name__ == "__main__":
    main()
