"""The monitoring page, in English, as one file of HTML that loads nothing."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

from brain_xai.ui.monitoring.counts import Hours, Key, quantile
from brain_xai.ui.monitoring.figures import Axis, Series, bars, lines

STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
# What can be looked at: the format of a slot of time in the keys of the counters, its length, and how many are shown.
RANGES = {
    "hours": ("%Y-%m-%dT%H", timedelta(hours=1), 48, "48 hours"),
    "days": ("%Y-%m-%d", timedelta(days=1), 90, "90 days"),
}
COLORS = "abcdef"
MAX_CHECKPOINTS = len(COLORS)

HOW = (
    "A request is one call of an endpoint or of a handler of the page; moving a slider of the page is one, too. "
    "Refused: the caller got a sentence that says what is wrong with the call. Error: a defect of the app, see its "
    "log. Left: no answer yet, or nobody waited for it.",
    "Median and p95 are estimated from a histogram of fixed buckets, each 19 % wider than the one before, and are "
    "wrong by at most 9 %. They cover the work on a request and its wait for the model, but neither the upload nor the "
    "wait in the queue of the server before the work begins.",
    "An answer is one image, or one slice of a study, that was given a class. The cases that the page offers are left "
    "out, and a second map of an image on the page is not another answer. The mean probability is that of the class in "
    "the answer.",
    "Only these counters are kept, by hour and without anything about a visitor or an image. When only one person used "
    "the app in an hour, its counters are about that person's images, though nothing tells who it was.",
)


@dataclass(frozen=True)
class View:
    """The counters of a range of time: the name of each slot with its counters, and their sum."""

    slots: Sequence[tuple[str, Counter[Key]]]
    total: Counter[Key]

    @property
    def axis(self) -> Axis:
        """The slots as the axis of a chart."""
        return Axis([name.replace("T", " ") + (":00" if "T" in name else "") for name, _ in self.slots])

    def over_time(self, name: str, value: Callable[[Counter[Key]], float | None], kind: str = "a") -> Series:
        """Return what is made of the counters of each slot."""
        return Series(name, [value(counts) for _, counts in self.slots], kind)


def view(hours: Hours, chosen: str, now: datetime) -> View:
    """Return the counters of one of `RANGES`, until now."""
    form, step, count, _ = RANGES[chosen]
    names = [(now - step * back).strftime(form) for back in reversed(range(count))]
    slots = {name: Counter() for name in names}
    for hour, counts in hours.items():
        name = hour[: len(names[0])]
        if name in slots:
            slots[name].update(counts)
    total: Counter[Key] = Counter()
    for counts in slots.values():
        total.update(counts)
    return View(list(slots.items()), total)


def page(shown: View, chosen: str, since: str, hub: str = "") -> str:
    """Return the page for a view; `since` is the oldest hour of all, `hub` says how the copy on the Hub is doing."""
    links = " ".join(
        f'<a href="?range={name}"{" aria-current=page" if name == chosen else ""}>{escape(text)}</a>'
        for name, (*_, text) in RANGES.items()
    )
    oldest = f"Counting since {since.replace('T', ' ')}:00." if since else "Nothing has been counted yet."
    return document(
        f'<header><h1>Monitoring</h1><nav>{links}<form method="post" action="monitoring/logout"><button>Log out'
        f"</button></form></nav></header><p>{escape(oldest)} All times are UTC. {escape(hub)}</p>"
        f"{_tiles(shown.total)}{_requests(shown)}{_answers(shown)}{_warnings(shown.total)}{_statuses(shown.total)}"
        f"<section><h2>What is counted</h2>{''.join(f'<p>{escape(text)}</p>' for text in HOW)}</section>"
    )


def login_page(action: str, message: str = "") -> str:
    """Return the form that asks for the token and sends it to `action`."""
    said = f'<p role="alert">{escape(message)}</p>' if message else ""
    return document(
        f'<h1>Monitoring</h1>{said}<form class="login" method="post" action="{action}"><label>Token '
        '<input type="password" name="token" autocomplete="current-password" required autofocus></label> '
        "<button>Log in</button></form>"
    )


def document(body: str) -> str:
    """Return a page with a body."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Monitoring: Brain XAI</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )


def _tiles(total: Counter[Key]) -> str:
    tiles = {
        "requests": f"{_sum(total, 'calls'):,.0f}",
        "answers": f"{_sum(total, 'labels'):,.0f}",
        "refused": f"{_sum(total, 'refusals'):,.0f}",
        "errors": f"{_sum(total, 'errors'):,.0f}",
        "median": _seconds(_took(total, 0.5)),
        "p95": _seconds(_took(total, 0.95)),
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in tiles.items())
    return f'<dl class="tiles">{shown}</dl>'


def _requests(shown: View) -> str:
    total = shown.total
    rows = []
    for name in sorted(_names(total, "calls"), key=lambda name: (not name.startswith("/"), name)):
        calls, refused, errors = (total[kind, name] for kind in ("calls", "refusals", "errors"))
        took = {key[2]: value for key, value in total.items() if key[:2] == ("took", name)}
        left = calls - refused - errors - sum(took.values())
        times = (_seconds(quantile(took, share)) for share in (0.5, 0.95))
        rows.append([name, *(f"{count:,.0f}" for count in (calls, refused, errors, max(left, 0))), *times])
    good = shown.over_time(
        "other requests", lambda c: max(_sum(c, "calls") - _sum(c, "refusals") - _sum(c, "errors"), 0)
    )
    refused = shown.over_time("refused", lambda c: _sum(c, "refusals"), "b")
    errors = shown.over_time("errors", lambda c: _sum(c, "errors"), "c")
    axis = shown.axis
    median = shown.over_time("median", lambda c: _took(c, 0.5))
    p95 = shown.over_time("p95", lambda c: _took(c, 0.95), "b")
    head = ["endpoint", "requests", "refused", "errors", "left", "median", "p95"]
    return (
        f"<section><h2>Requests</h2>{bars([good, refused, errors], axis)}{_table(head, rows)}"
        f"<h3>Time per request</h3>{lines([median, p95], Axis(axis.slots, ' s'))}</section>"
    )


def _answers(shown: View) -> str:
    total = shown.total
    checkpoints = sorted(_names(total, "labels"), key=lambda name: -_answered(total, name))
    if not checkpoints:
        return "<section><h2>Answers</h2><p>No image was classified in this time.</p></section>"
    means = [
        shown.over_time(checkpoint, lambda counts, name=checkpoint: _mean(counts, name), color)
        for checkpoint, color in zip(checkpoints, COLORS, strict=False)
    ]
    others = f"<p>The {MAX_CHECKPOINTS} most used are drawn.</p>" if len(checkpoints) > MAX_CHECKPOINTS else ""
    chart = lines(means, Axis(shown.axis.slots, top=1.0))
    tables = "".join(f"<h3>{escape(name)}</h3>{_classes(total, name)}" for name in checkpoints)
    return f"<section><h2>Answers</h2>{tables}<h3>Mean probability of the answers</h3>{chart}{others}</section>"


def _classes(total: Counter[Key], checkpoint: str) -> str:
    """Return a table of the answers of a checkpoint."""
    rows = []
    for label in sorted({key[2] for key in total if key[:2] == ("labels", checkpoint)}):
        count = total["labels", checkpoint, label]
        share, mean = count / _answered(total, checkpoint), total["probability", checkpoint, label] / count
        meter = f'{share:.0%} <meter value="{share:.3f}" aria-hidden="true"></meter>'
        rows.append([label, f"{count:,.0f}", _Html(meter), f"{mean:.2f}"])
    return _table(["class", "answers", "share", "mean probability"], rows)


def _warnings(total: Counter[Key]) -> str:
    answers = _sum(total, "labels")
    rows = [
        [code, f"{total['warnings', code]:,.0f}", f"{100 * total['warnings', code] / answers:.1f}" if answers else "–"]
        for code in sorted(_names(total, "warnings"), key=lambda code: -total["warnings", code])
    ]
    table = _table(["code", "answers with it", "per 100 answers"], rows) if rows else "<p>None.</p>"
    return f"<section><h2>Warnings</h2>{table}</section>"


def _statuses(total: Counter[Key]) -> str:
    rows = [[status, f"{total['http', status]:,.0f}"] for status in sorted(_names(total, "http"))]
    table = _table(["HTTP status", "answers"], rows) if rows else "<p>None.</p>"
    return f"<section><h2>Turned away before an endpoint</h2>{table}</section>"


class _Html(str):
    """A cell that is HTML already."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column holds words, the others numbers."""
    kinds = ["", *[' class="n"'] * (len(head) - 1)]
    heads = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="table" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    return text if isinstance(text, _Html) else escape(text)


def _names(total: Mapping[Key, float], kind: str) -> set[str]:
    return {key[1] for key in total if key[0] == kind}


def _sum(total: Mapping[Key, float], kind: str) -> float:
    return sum(value for key, value in total.items() if key[0] == kind)


def _answered(total: Mapping[Key, float], checkpoint: str) -> float:
    return sum(value for key, value in total.items() if key[:2] == ("labels", checkpoint))


def _mean(total: Mapping[Key, float], checkpoint: str) -> float | None:
    """Return the mean probability of the answers of a checkpoint, None if it gave none."""
    count = _answered(total, checkpoint)
    return (
        sum(value for key, value in total.items() if key[:2] == ("probability", checkpoint)) / count if count else None
    )


def _took(total: Mapping[Key, float], share: float) -> float | None:
    """Return a quantile of the times of all requests in seconds."""
    buckets: Counter[str] = Counter()
    for key, value in total.items():
        if key[0] == "took":
            buckets[key[2]] += value
    return quantile(buckets, share)


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"
