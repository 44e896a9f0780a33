"""Counters by hour, which add up across restarts and processes: all that monitoring knows."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

# A kind of counter, and what it is counted for, such as ("calls", "/predict").
Key = tuple[str, ...]
# {hour: counters}; hours are in UTC, such as "2026-11-21T09".
Hours = dict[str, Counter[Key]]
HOUR = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3])")
# The kinds, with the number of names that follow.
KINDS = {
    "calls": 1,  # endpoint
    "refusals": 1,  # endpoint: answered with a sentence that says what is wrong with the call
    "errors": 1,  # endpoint: a defect of the app
    "took": 2,  # endpoint, bucket of seconds
    "warnings": 1,  # code
    "labels": 2,  # checkpoint, label: answers
    "probability": 2,  # checkpoint, label: sum of the probabilities of those answers
    "http": 1,  # status: requests that reached no endpoint
}
MAX_NAME_LENGTH = 200

# Each bucket of seconds is wider than the one before by the same factor, so that a quantile is wrong by at most 9 %
# anywhere between a millisecond and a quarter of an hour, and histograms of different days can be added.
FIRST_SECONDS = 0.001
BUCKETS_PER_DOUBLING = 4
LAST_BUCKET = 20 * BUCKETS_PER_DOUBLING


def hour_now() -> str:
    """Return the current hour in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H")


def bucket_of(seconds: float) -> str:
    """Return the bucket of a time as its name in a key."""
    if seconds <= FIRST_SECONDS:
        return "0"
    return str(min(math.ceil(BUCKETS_PER_DOUBLING * math.log2(seconds / FIRST_SECONDS)), LAST_BUCKET))


def quantile(buckets: Mapping[str, float], share: float) -> float | None:
    """Estimate the time that a share of the calls stayed below.

    Args:
        buckets: How many calls took how long, by `bucket_of`.
        share: 0 to 1; 0.5 is the median.

    Returns:
        Seconds, the geometric middle of the bucket that holds the quantile, hence at most 9 % too long or too short;
        None without calls.
    """
    rank = share * sum(buckets.values())
    for bucket in sorted(map(int, buckets)):
        rank -= buckets[str(bucket)]
        if rank <= 0:
            return FIRST_SECONDS * 2 ** ((max(bucket, 0.5) - 0.5) / BUCKETS_PER_DOUBLING)
    return None


def to_lines(hours: Hours) -> str:
    """Return counters as JSON lines, one for each hour, oldest first."""
    return "".join(
        json.dumps({"hour": hour, "counts": [[*key, value] for key, value in sorted(hours[hour].items())]}) + "\n"
        for hour in sorted(hours)
    )


def from_lines(text: str) -> Hours:
    """Return the counters in JSON lines, those of the same hour added up; what is damaged is left out."""
    hours: Hours = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            hour, counts = entry["hour"], entry["counts"]
            valid = {tuple(key): value for *key, value in counts if _is_valid(key, value)}
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(hour, str) and HOUR.fullmatch(hour):
            hours.setdefault(hour, Counter()).update(valid)
    return hours


def added(*several: Hours) -> Hours:
    """Return the sum of counters."""
    total: Hours = {}
    for hours in several:
        for hour, counts in hours.items():
            total.setdefault(hour, Counter()).update(counts)
    return total


def _is_valid(key: list, value: object) -> bool:
    return (
        bool(key)
        and all(isinstance(name, str) and len(name) <= MAX_NAME_LENGTH for name in key)
        and KINDS.get(key[0]) == len(key) - 1
        and (key[0] != "took" or (key[2].isdecimal() and int(key[2]) <= LAST_BUCKET))
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value < math.inf
    )
