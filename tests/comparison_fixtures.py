"""A comparison's report with invented numbers: what `prag compare` writes, of any size."""

from __future__ import annotations

import math

TOPICS = ("Lakes", "Mills", "Comets", "Guilds", "Ferns", "Bridges", "Clocks", "Harbours", "Maps")
LAYERS = tuple(range(30))
HOSTILE = "<script>document.title='taken'</script> & \"quotes\" [red]$x$ '"
PATH_SCORES = {
    "trained": {"parametric": 0.367, "combine": 0.35, "shuffled": 0.01, "mean": 0.05},
    "generated": {"parametric": 0.55, "combine": 0.65, "shuffled": 0.013, "mean": 0.06},
    "refined": {"parametric": 0.56, "combine": 0.64, "shuffled": 0.02, "mean": 0.07},
}
SHARED_SCORES = {"closed_book": 0.02, "in_context": 0.483, "da_rag": 0.53, "sft": 0.183}


def estimate(mean: float, width: float = 0.04, certain: bool = True) -> dict:
    """Return a mean with an interval around it; none where it is not certain."""
    low, high = (mean - width, mean + width) if certain else (None, None)
    return {"mean": mean, "low": low, "high": high}


def make_report(
    paths: tuple[str, ...] = ("trained", "generated"),
    documents: int = 40,
    questions: int = 600,
    **changed: object,
) -> dict:
    """Return a whole report with invented numbers; without questions it lacks what needs them.

    Args:
        paths: ways that adapters were made.
        documents: number of documents.
        questions: number of questions; with fewer than 5 there are no intervals.
        changed: top-level entries that replace the made ones.
    """
    asked = questions > 0
    certain = questions >= 5
    report = {
        "version": 1,
        "title": "invented_set",
        "created": "2001-02-03T04:05:06+00:00",
        "command": "prag compare invented_set --output runs/invented",
        "base_model": "invented-135m",
        "machine": "2 invented cores",
        "paths": list(paths),
        "notes": ["These numbers are invented."],
        "documents": [_document(n) for n in range(documents)],
        "questions": questions,
        "quality": _quality(paths, documents, questions, certain) if asked else None,
        "knowledge": _knowledge(paths, documents, asked, certain or not asked),
        "similarity": _similarity(paths, documents),
        "side_effects": _side_effects(paths, asked, certain or not asked),
        "merging": _merging(paths, certain) if asked else None,
        "cost": _cost(paths, asked),
        "disagreements": _disagreements(paths) if asked and len(paths) > 1 else None,
    }
    return report | changed


def _document(n: int) -> dict:
    topic = TOPICS[n * n % 7 % len(TOPICS)]
    title = f"{topic} of the invented north, part {n}"
    return {"id": f"d{n}", "title": title, "topic": topic, "words": 90 + n % 50}


def _scores(paths: tuple[str, ...]) -> dict[str, float]:
    own = {f"{p}/{name}": s for p in paths for name, s in PATH_SCORES[p].items()}
    return SHARED_SCORES | own


def _metrics(score: float, certain: bool) -> dict:
    factors = {"containment": 1, "exact_match": 0.8, "f1": 1.1, "precision": 1.05, "recall": 1.15}
    return {m: estimate(score * f, min(score * f, 0.04), certain) for m, f in factors.items()}


def _quality(paths: tuple[str, ...], documents: int, questions: int, certain: bool) -> dict:
    scores = _scores(paths)
    pairs = [(f"{p}/parametric", f"{p}/{c}") for p in paths for c in ("shuffled", "mean")]
    pairs += [(f"{p}/parametric", c) for p in paths for c in ("sft", "closed_book", "in_context")]
    if len(paths) > 1:
        pairs += [(f"{paths[1]}/{m}", f"{paths[0]}/{m}") for m in ("parametric", "combine")]
    p_value = 0.0002 if certain else None
    differences = [
        {
            "a": a,
            "b": b,
            "metrics": {
                m: estimate(v["mean"], 0.05, certain) | {"p": p_value}
                for m, v in _metrics(scores[a] - scores[b], certain).items()
            },
        }
        for a, b in pairs
    ]
    rows = [
        {"id": f"d{n}", "questions": 5, "containment": {m: n % 6 / 5 for m in scores}}
        for n in range(documents)
    ]
    modes = {
        name: {"n": questions, "seconds": 12.5, "metrics": _metrics(score, certain)}
        for name, score in scores.items()
    }
    return {"modes": modes, "differences": differences, "per_document": rows}


def _knowledge(paths: tuple[str, ...], documents: int, asked: bool, certain: bool) -> dict:
    text, answers = {"none": 3.1}, {"closed_book": 4.4, "in_context": 1.6}
    for n, path in enumerate(paths):
        text |= {f"{path}/own": 1.2 + n, f"{path}/other": 3.0 + n / 5}
        answers |= {f"{path}/parametric": 2.5 - n / 3, f"{path}/shuffled": 4.2 + n / 5}
    gap = {path: estimate(0.68 + n / 10, 0.05, certain) for n, path in enumerate(paths)}
    return {
        "text": {name: estimate(v, 0.1, certain) for name, v in text.items()},
        "answers": {n: estimate(v, 0.2, certain) for n, v in answers.items()} if asked else None,
        "gap_closed": gap if asked else {},
        "per_document": [
            {"id": f"d{n}", "text": text, "answers": answers if asked else None}
            for n in range(documents)
        ],
    }


def _similarity(paths: tuple[str, ...], documents: int) -> dict:
    modules = {"generated": ["down_proj"]}
    norms = {}
    for path in paths:
        names = modules.get(path, ["gate_proj", "up_proj", "down_proj"])
        values = [[0.2 + 0.1 * m + abs(math.sin(n / 6)) for n in LAYERS] for m in range(len(names))]
        norms[path] = {"layers": list(LAYERS), "modules": names, "values": values}
    places = [
        {
            "document": n,
            "path": path,
            "x": math.cos(n * n % 7 + p) + 0.3 * math.sin(11 * n),
            "y": math.sin(n * n % 7 + p) + 0.3 * math.cos(17 * n),
        }
        for p, path in enumerate(paths)
        for n in range(documents)
    ]
    part = {
        "within": {path: {"mean": 0.31, "low": 0.2, "high": 0.5} for path in paths},
        "norms": norms,
        "map": places,
        "variance": {path: 0.23 for path in paths},
        "error": 0.004,
        "seconds": 12.0,
    }
    if len(paths) > 1:
        names = ("same document", "different documents")
        part["between"] = {name: {"mean": 0.05, "low": 0.01, "high": 0.09} for name in names}
    return part


def _side_effects(paths: tuple[str, ...], asked: bool, certain: bool) -> dict:
    return {
        path: {
            "text_without": estimate(3.1, 0.1, certain),
            "text_with": estimate(3.2, 0.1, certain),
            "change": estimate(0.032, 0.01, certain),
            "changed_answers": estimate(0.9, 0.02, certain) if asked else None,
            "kept": estimate(0.25, 0.1, certain) if asked else None,
        }
        for path in paths
    }


def _merging(paths: tuple[str, ...], certain: bool) -> dict:
    counts = [1, 2, 3, 5, 10]
    tops = {"in_context": 0.48}
    for path in paths:
        start = PATH_SCORES[path]["parametric"]
        tops |= {f"{path}/ones": start, f"{path}/mean": start * 0.95, f"{path}/score": start * 0.9}
    series = {
        name: [estimate(top / k**0.3, 0.05, certain) for k in counts] for name, top in tops.items()
    }
    return {"k": counts, "n": 100, "metric": "containment", "series": series}


def _cost(paths: tuple[str, ...], asked: bool) -> dict:
    seconds = {"trained": 1.4, "generated": 0.08, "refined": 0.9}
    part: dict = {"questions": {"closed_book": 0.11, "in_context": 0.25} if asked else {}}
    for path in paths:
        each = seconds[path]
        part[path] = {
            "seconds": each,
            "peak_bytes": 3.1e9,
            "bytes": 2_950_000,
            "question_seconds": {"parametric": 0.12, "combine": 0.27} if asked else {},
            "break_even": each / 0.13 if asked and path != "refined" else None,
            "progress": [[n, each * n * (1 + 0.5 / n)] for n in (8, 16, 24, 32)],
        }
    return part


def _disagreements(paths: tuple[str, ...]) -> list[dict]:
    return [
        {
            "question": f"Which invented guild kept the clock of mill {n}?",
            "golden_answers": [f"the {TOPICS[n % 9]} guild", f"Guild of {TOPICS[n % 9]}"],
            "document": f"{TOPICS[n % 9]} of the invented north, part {n}",
            "answers": {p: f"the {TOPICS[(n + i) % 9]} guild" for i, p in enumerate(paths)},
            "contained": {p: float(i == 0) for i, p in enumerate(paths)},
        }
        for n in range(60)
    ]
