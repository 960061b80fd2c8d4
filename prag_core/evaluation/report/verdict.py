"""Verdict: a comparison's report goes in, what it says in plain sentences comes out."""

from __future__ import annotations

from prag_core.evaluation.report.wording import (
    SIGNIFICANT,
    condition,
    counted,
    duration,
    interval_of,
    interval_text,
    joined,
    known,
    mean_of,
    number,
    p_text,
    path_of,
    percent,
    times,
)


def headline(report: dict) -> str:
    """Return what was compared, in one sentence."""
    paths = joined(report["paths"])
    about = counted(len(report.get("documents") or ()), "document")
    asked = report.get("questions") or 0
    questions = f", asked {counted(asked, 'question')}" if asked else ""
    return f"{paths.capitalize()} adapters of {about}{questions}"


def verdict(report: dict) -> list[str]:
    """Return plain sentences: which path is better, whether adapters carry documents, at what cost.

    What the report does not hold is not spoken of; the list may be empty.
    """
    sentences = (_better(report), _against_reading(report), _carried(report), _cost(report))
    return [sentence for sentence in sentences if sentence]


def difference(report: dict, a: str, b: str, metric: str = "containment") -> dict | None:
    """Return a paired difference a - b with its interval and p value; turned round where needed."""
    for found in (report.get("quality") or {}).get("differences") or ():
        if (found["a"], found["b"]) == (a, b):
            return found["metrics"].get(metric)
        if (found["a"], found["b"]) == (b, a) and metric in found["metrics"]:
            turned = found["metrics"][metric]
            low, high = interval_of(turned) or (None, None)
            ends = {"low": None, "high": None} if low is None else {"low": -high, "high": -low}
            return {"mean": -turned["mean"], **ends, "p": turned.get("p")}
    return None


def containment(report: dict, mode: str) -> float | None:
    """Return a mode's mean answer containment."""
    modes = (report.get("quality") or {}).get("modes") or {}
    return mean_of(((modes.get(mode) or {}).get("metrics") or {}).get("containment"))


def ranked_paths(report: dict) -> list[tuple[str, float]]:
    """Return paths with the containment of their adapters alone, the best first."""
    scores = [(path, containment(report, f"{path}/parametric")) for path in report["paths"]]
    return sorted(((p, s) for p, s in scores if s is not None), key=lambda pair: -pair[1])


def _better(report: dict) -> str:
    ranked = ranked_paths(report)
    if len(ranked) < 2:
        return ""
    (best, score), (other, lower) = ranked[:2]
    found = difference(report, f"{best}/parametric", f"{other}/parametric")
    shares = f"{percent(score)} against {percent(lower)} of the answers contain the golden one"
    if found is None or not known(found.get("p")):
        doubt = "" if found is None else "; too few questions to tell more"
        return f"{best.capitalize()} and {other} adapters: {shares}{doubt}."
    proof = _proof(found)
    if found["p"] < SIGNIFICANT:
        return f"{best.capitalize()} adapters answer better than {other} ones: {shares}, {proof}."
    return (
        f"No difference is shown between {best} and {other} adapters: {shares}, {proof}, which "
        "may be chance."
    )


def _against_reading(report: dict) -> str:
    """Compare the best path with the document in the prompt."""
    ranked, read = ranked_paths(report), containment(report, "in_context")
    if not ranked or read is None:
        return ""
    best, score = ranked[0]
    found = difference(report, f"{best}/parametric", "in_context")
    counted = "do" if len(ranked) > 1 else "of the answers contain the golden one"
    text = f"With the document in the prompt {percent(read)} {counted}"
    if found is None or not known(found.get("p")):
        return f"{text}; with {best} adapters alone {percent(score)}."
    chance = "" if found["p"] < SIGNIFICANT else ", which may be chance"
    return f"{text}; {best} adapters alone differ from that by {_proof(found)}{chance}."


def _carried(report: dict) -> str:
    """Say whether adapters hold their own document, by the control of another document's."""
    shown, unsure, parts = [], [], []
    for path, score in ranked_paths(report):
        left = containment(report, f"{path}/shuffled")
        if left is None:
            continue
        found = difference(report, f"{path}/parametric", f"{path}/shuffled")
        sure = found and known(found.get("p")) and found["p"] < SIGNIFICANT and found["mean"] > 0
        (shown if sure else unsure).append(path)
        parts.append(f"{path} {percent(left)} instead of {percent(score)}")
    if not parts:
        return _carried_text(report)
    claim = f"{joined(shown).capitalize()} adapters carry their documents" if shown else ""
    doubt = (
        f"it is not shown that {joined(unsure)} adapters carry their documents" if unsure else ""
    )
    said = ", but ".join(filter(None, (claim, doubt)))
    return f"{said[0].upper()}{said[1:]}: with another document's adapter, {joined(parts)}."


def _carried_text(report: dict) -> str:
    """Say the same from the loss of the documents' own text."""
    text = (report.get("knowledge") or {}).get("text") or {}
    parts = []
    for name, estimate in text.items():
        if condition(name) == "own" and mean_of(estimate) is not None:
            other = mean_of(text.get(f"{path_of(name)}/other"))
            beside = "" if other is None else f" (another document's: {other:.2f})"
            parts.append(f"{mean_of(estimate):.2f} with its {path_of(name)} adapter{beside}")
    none = mean_of(text.get("none"))
    if none is None or not parts:
        return ""
    return f"A document's own text costs the model {none:.2f} nats a token, {joined(parts)}."


def _cost(report: dict) -> str:
    ranked = sorted(_seconds(report))
    if not ranked:
        return ""
    (low, cheap), rest = ranked[0], ranked[1:]
    if not rest:
        return f"A {cheap} adapter takes {duration(low)} a document."
    against = [f"a {p} one {duration(s)} ({times(s / low)} as long)" for s, p in rest]
    return f"A {cheap} adapter takes {duration(low)} to make, {joined(against)}."


def _proof(found: dict) -> str:
    interval = interval_of(found)
    ends = f"{interval_text(interval, sign='+')}; " if interval else ""
    return f"{number(100 * found['mean'], sign='+')} points ({ends}{p_text(found['p'])})"


def key_numbers(report: dict) -> list[tuple[str, str, str]]:
    """Return up to six (name, value, explanation): the numbers to see first."""
    numbers = [
        (path, percent(score), "of the answers, adapter only")
        for path, score in ranked_paths(report)
    ]
    for mode, note in (("in_context", "document in the prompt"), ("closed_book", "no document")):
        if (score := containment(report, mode)) is not None:
            numbers.append((mode, percent(score), note))
    made = sorted(_seconds(report), reverse=True)
    if len(made) > 1:
        (slow, slower), (fast, faster) = made[0], made[-1]
        numbers.append(("time to make one", times(slow / fast), f"{slower} over {faster}"))
    return numbers[:6]


def _seconds(report: dict) -> list[tuple[float, str]]:
    """Return seconds a document and path."""
    cost = report.get("cost") or {}
    made = [((cost.get(path) or {}).get("seconds"), path) for path in report["paths"]]
    return [(seconds, path) for seconds, path in made if known(seconds) and seconds > 0]
