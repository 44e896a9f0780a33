"""Send thousands of damaged, hostile and odd files through the upload of a running app, and print a table.

python -m tests.fuzz --files 10000 --seed 0 [--minutes 8] [--results FILE]
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.corpus import SHARES, sample
from tests.fuzz.sending import Outcome, send
from tests.helpers.caller import Caller
from tests.helpers.running_app import RunningApp, running_app

CHECKPOINT = "bundled/resnet18"  # the quickest
COLUMNS = "{:<20}{:>7}{:>10}{:>9}{:>9}{:>10}{:>10}"


def main() -> int:
    """Send the files that are not in the results yet, then print what became of all; return 1 for any defect."""
    given = _parser().parse_args()
    records = _read(given.results)
    end = time.monotonic() + 60 * given.minutes
    with running_app(CHECKPOINT) as app, Caller(app.address) as caller:
        start = app.usage().memory
        known = {record["number"] for record in records if "number" in record}
        for number in (number for number in range(given.files) if number not in known):
            if time.monotonic() > end:
                break
            outcome = send(caller, number, sample(given.seed, number))
            records.append(outcome.to_json())
            _append(given.results, records[-1])
            if outcome.is_defect:
                print(
                    f"{outcome.result}: file {number} ({outcome.kind}, {outcome.format}): {outcome.message}", flush=True
                )
            if not app.is_running:
                break
        records.append(_end_of(app, start))
        _append(given.results, records[-1])
    print(table(records))
    outcomes = _outcomes(records)
    return int(any(outcome.is_defect for outcome in outcomes) or any(record.get("crashed") for record in records))


def table(records: list[dict]) -> str:
    """Return what became of the files, by kind, and what it cost."""
    outcomes, ends = _outcomes(records), [record for record in records if "peak" in record]
    lines = [COLUMNS.format("kind", "files", "answered", "refused", "defects", "slowest", "largest")]
    for kind in (*SHARES, "all"):
        some = [outcome for outcome in outcomes if kind in (outcome.kind, "all")]
        if some:
            results = Counter(outcome.result for outcome in some)
            defects = sum(outcome.is_defect for outcome in some)
            slowest, largest = max(one.seconds for one in some), max(one.size for one in some)
            numbers = len(some), results["answered"], results["refused"], defects
            lines.append(COLUMNS.format(kind, *numbers, f"{slowest:.1f} s", f"{largest / 2**20:.1f} MB"))
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    lines += [
        f"Formats: {len({outcome.format for outcome in outcomes})}. "
        f"Different refusals: {len({outcome.message for outcome in outcomes if outcome.result == 'refused'})}.",
        f"Slowest: {slowest.kind}, {slowest.format}, {slowest.seconds:.1f} s.",
        f"Memory of the app: {min(end['start'] for end in ends):.0f} MB at the start of a run, "
        f"{max(end['peak'] for end in ends):.0f} MB at most.",
        f"Crashes: {sum(end['crashed'] for end in ends)}. Lines in the app's log about a request: "
        f"{sum(end['log_lines'] for end in ends)}.",
    ]
    return "\n".join(lines)


def _end_of(app: RunningApp, start: float) -> dict:
    """Return what the app has used, and whether it still runs."""
    lines = [
        line for line in app.log.splitlines() if line.strip() and "Running on" not in line and "share=" not in line
    ]
    for line in lines:
        print(f"log: {line}")
    if not app.is_running:
        return {"peak": 0.0, "start": start, "crashed": True, "log_lines": len(lines)}
    return {"peak": app.usage().peak, "start": start, "crashed": False, "log_lines": len(lines)}


def _outcomes(records: list[dict]) -> list[Outcome]:
    return [Outcome(**record) for record in records if "number" in record]


def _read(file: Path | None) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []


def _append(file: Path | None, record: dict) -> None:
    if file:
        with file.open("a") as opened:
            opened.write(json.dumps(record) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="how many files the corpus has")
    parser.add_argument("--seed", type=int, default=0, help="which corpus")
    parser.add_argument("--minutes", type=float, default=10**6, help="stop after as many minutes")
    parser.add_argument("--results", type=Path, help="file of what is known; a second run goes on after the last file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
