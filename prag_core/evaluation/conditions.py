"""Conditions: a name goes in, what is asked how comes out: mode, documents and options.

closed_book, in_context, in_context_rows, kv_cache, reader, da_rag, parametric, combine, sft    the
            modes, from each question's documents: its gold ones, or those that a retriever found;
            kv_cache of one document
gold        parametric, from the gold documents, whatever a retriever finds
shuffled    parametric, from other documents in their place: what it scores is the answer's
            format and general tuning, no knowledge of the document
mean        the mean of all adapters in use, whatever the question: what they have in common
rank:R      gold, adapters cut to R rows a module
gold+K      the gold documents' adapters merged with those of K others, half of them BM25
            neighbours; gold+K:WEIGHTING for another than `ones` (see `merge_weights`),
            gold+K:concatenate for their plain sum
in_context+K, combine+K    the same documents in the prompt, and both; in random order
MODE@K      from the first K of the question's documents; also before what follows
MODE:unanswerable    the retriever finds documents among those that cannot answer the question:
            none of its gold ones' titles, none that holds a golden answer
MODE:gated    without the passages of documents whose adapters do not respond to the question (the
            option `least_relevance`), as they are left out of a merge
MODE:abstain, MODE:unanswerable:abstain    with the option `abstain`
MODE:focus:X    with the option `focus`, of modes that attach documents' adapters
MODE:prompt:NAME    asked in another wording (see `prag_core.model.wordings`)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from prag_core.adapters.names import WEIGHTINGS
from prag_core.model.wordings import WORDINGS
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.modes import MODES, Mode, find_mode, gates_passages

SHUFFLED, MEAN = "shuffled", "mean"
CONTROLS = ("sft", SHUFFLED, MEAN)  # what they score is no knowledge of the document
# In tables; what is not here stands behind, groups in order of their numbers.
ORDER = (
    "closed_book", "in_context", "in_context_rows", "kv_cache", "reader", "da_rag", "parametric",
    "gold", "combine", SHUFFLED, MEAN, "sft", "rank",
)  # fmt: skip
GROUP = re.compile(r"(?P<base>gold|in_context|combine)\+(?P<count>\d+)(?::(?P<how>\w+))?")
RANK = re.compile(r"rank:(\d+)")
READER = "reader"
READING = ("in_context", "in_context_rows", READER)
UNANSWERABLE, ABSTAIN, GATED, FOCUS = "unanswerable", "abstain", "gated", "focus"
OF_FOCUS = f":{FOCUS}:"  # of its conditions' names: before it the mode, behind it the number
# A mode, by itself or with what is changed of it.
OF_MODE = re.compile(
    rf"(?P<mode>\w+)(?:@(?P<k>[1-9]\d*))?(?:(?P<{GATED}>:{GATED})|:prompt:(?P<prompt>\w+)"
    rf"|:{FOCUS}:(?P<{FOCUS}>0\.\d+|1)"
    rf"|(?P<{UNANSWERABLE}>:{UNANSWERABLE})?(?P<{ABSTAIN}>:{ABSTAIN})?)"
)
# Mode and documents; mean: one adapter for all questions, as in mode sft, but another one.
NAMED = {
    "gold": ("parametric", "gold"), SHUFFLED: ("parametric", "other"), MEAN: ("sft", "all")
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One way to ask a question set.

    Attributes:
        name: as it is given and stands in tables.
        mode: how the `Answerer` answers (see `pipeline.modes`).
        documents: which documents a question is answered from: its `own` (by the evaluation's
            retrieval), its `gold` ones, `other` ones in place of its own, the `nearest` ones that
            do not answer it, or none at all but the mean over `all`.
        neighbours: other documents beside the gold ones.
        overrides: fields of `AnswerOptions` that it sets.
        k: how many of its documents, at most; 0: as many as the evaluation gives.
    """

    name: str
    mode: str
    documents: Literal["own", "gold", "other", "nearest", "all"] = "own"
    neighbours: int = 0
    overrides: dict[str, object] = field(default_factory=dict)
    k: int = 0

    @property
    def how(self) -> Mode:
        """The mode's record."""
        return find_mode(self.mode)

    @property
    def needs_adapters(self) -> bool:
        """Whether documents' adapters are made for it."""
        return self.how.needs_adapters or self.documents == "all" or self.gated

    @property
    def needs_parametrizer(self) -> bool:
        """Whether something is read that a parametrizer makes."""
        return self.needs_adapters or self.how.needs_parametrizer

    @property
    def needs_training(self) -> bool:
        """Whether the trained path alone has what it asks with: it augments, and trains corpora."""
        whole = self.how.adapters == "corpus" and self.documents != "all"
        return whole or self.how.passages == "augmented"

    @property
    def gated(self) -> bool:
        """Whether adapters choose the documents whose passages are shown."""
        return bool(self.overrides.get(GATED))

    def options(self, usual: AnswerOptions) -> AnswerOptions:
        """Return the options that it is asked with."""
        return replace(usual, **self.overrides)

    def reads_adapters(self, usual: AnswerOptions) -> bool:
        """Whether documents' adapters are read with these options: attached, or to gate by."""
        return self.needs_adapters or gates_passages(self.how, self.options(usual))


def require_gates_by_name(usual: AnswerOptions) -> None:
    """Raise ValueError for gates of all conditions, where several paths share some of them.

    Whose adapters would gate a passage that no path has made? MODE:gated is asked of each path.
    """
    if usual.gated:
        raise ValueError(
            "got answering.gated, expected it in the names of conditions, which are then asked of "
            "every path: leave it out, and name e.g. in_context:gated"
        )


def parse_condition(name: str) -> Condition:
    """Return the condition of a name; ValueError for a name that means none."""
    if name in NAMED:
        return Condition(name, *NAMED[name])
    if match := RANK.fullmatch(name):
        return Condition(name, "parametric", "gold", overrides={"rank": int(match[1])})
    if (match := OF_MODE.fullmatch(name)) and (mode := MODES.get(match["mode"])):
        overrides: dict[str, object] = {key: True for key in (GATED, ABSTAIN) if match[key]}
        possible = bool(mode.passages) if match[GATED] else mode.needs_documents
        if prompt := match["prompt"]:
            overrides, possible = {"prompt": prompt}, prompt in WORDINGS
        if share := match[FOCUS]:
            overrides, possible = {FOCUS: float(share)}, mode.adapters == "documents"
        possible = possible and (mode.needs_documents or not match["k"])
        if possible or name == mode.name:
            documents = "nearest" if match[UNANSWERABLE] else "own"
            return Condition(name, mode.name, documents, 0, overrides, int(match["k"] or 0))
    if (match := GROUP.fullmatch(name)) and (match["base"] != "in_context" or not match["how"]):
        how = match["how"] or "ones"
        if how in (*WEIGHTINGS, "concatenate"):
            # The plain sum, also of memories that could be solved again together.
            summed = {"merge_weights": "ones", "merge_method": how}
            overrides = summed if how == "concatenate" else {"merge_weights": how}
            mode = "parametric" if match["base"] == "gold" else match["base"]
            return Condition(name, mode, "gold", int(match["count"]), overrides)
    raise ValueError(
        f"got condition {name!r}, expected one of {', '.join((*MODES, 'gold', SHUFFLED, MEAN))}, "
        "rank:R, gold+K, in_context+K or combine+K, of documents also MODE@K (before all else), "
        f"MODE:{UNANSWERABLE}, MODE:{ABSTAIN} or MODE:{UNANSWERABLE}:{ABSTAIN}, with passages also "
        f"MODE:{GATED}, with adapters also MODE:{FOCUS}:X (0.1 to 1), "
        f"gold+K:{'|'.join((*WEIGHTINGS, 'concatenate'))}, or MODE:prompt:{'|'.join(WORDINGS)}: "
        "correct it"
    )


def in_order(name: str) -> tuple:
    """Return the key by which conditions are sorted in tables."""
    # Numbers as text of one width, so that gold+9 stands before gold+19.
    base, *numbers = re.split(r"[+:@]", name)
    place = len(ORDER) if "+" in name else ORDER.index(base) if base in ORDER else len(ORDER) + 1
    return (place, base, *(f"{int(n):06}" if n.isdecimal() else n for n in numbers))


def file_name(condition: str) -> str:
    """Return a condition's file of answers, a name that every file system takes."""
    return condition.replace(":", "=") + ".jsonl"


def condition_of(file: str) -> str | None:
    """Return the condition whose answers a file holds; None for another file."""
    name = file.removesuffix(".jsonl").replace("=", ":")
    try:
        return parse_condition(name).name
    except ValueError:
        return None


def is_doubtful(name: str) -> bool:
    """Return whether it asks what documents do not answer, or lets the system abstain."""
    return name.endswith((f":{UNANSWERABLE}", f":{ABSTAIN}"))


def is_reading(name: str) -> bool:
    """Return whether it has the question's own passages in the prompt, and no adapter of them."""
    return re.split("[@:]", name)[0] in READING and not is_doubtful(name)


def require_no_passages(conditions: Iterable[str]) -> None:
    """Raise ValueError for conditions whose prompt would show the text that is to be recited."""
    if shown := [name for name in conditions if parse_condition(name).how.passages]:
        raise ValueError(
            f"got the conditions {', '.join(shown)} with recite, expected some whose prompt does "
            "not show the text: ask closed_book, parametric and shuffled, say"
        )


def path_of(name: str) -> str:
    """Return who made the adapters; empty where all paths share the condition."""
    return name.rpartition("/")[0]


def condition_name(name: str) -> str:
    """Return the condition without its path."""
    return name.rpartition("/")[2]


def is_control(name: str) -> bool:
    """Return whether what it scores says nothing of the document."""
    return condition_name(name) in CONTROLS


def label(name: str) -> str:
    """Write `PATH/CONDITION` as `PATH, CONDITION`; what is divided by what stays."""
    return name.replace("/", ", ", 1)


def reading_order(names: Iterable[str]) -> list[str]:
    """Return shared conditions, then every path's own, then the controls."""
    # sorted() is stable: within a kind names stay as they come.
    return sorted(names, key=lambda name: (is_control(name), bool(path_of(name))))


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked and how.

    Attributes:
        conditions: ways to answer, each with its own results: the modes `closed_book`,
            `in_context`, `in_context_rows`, `kv_cache`, `reader`, `da_rag`, `parametric`,
            `combine`, `sft`; the controls `shuffled` (another document's adapter) and `mean` (of
            all adapters); of gold documents `gold`, `rank:R` and `gold+K`; MODE@K, from the first K
            documents; MODE:gated, without passages whose adapters do not respond; MODE:focus:X,
            with sentences weighed; MODE:unanswerable, from the nearest documents that do not hold
            the answer, MODE:abstain and MODE:unanswerable:abstain; and MODE:prompt:NAME, in
            another wording (see `prag_core.evaluation.conditions`).
        k: documents a question, at most.
        retrieval: `gold` gives each question its own documents (the first k of its gold ids);
            `retriever` searches for them.
        seed: of samples, controls and the bootstrap.
        chunk: questions answered between two writes; an interruption loses at most these.
    """

    conditions: tuple[str, ...] = ("closed_book", "in_context", "parametric", "combine", SHUFFLED)
    k: int = 3
    retrieval: Literal["gold", "retriever"] = "retriever"
    seed: int = 0
    chunk: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError for unknown or repeated conditions and values out of range."""
        most = max((parse_condition(condition).k for condition in self.conditions), default=0)
        # Answers of one condition are one file: a second one of the name would find it full.
        if not self.conditions or len({*self.conditions}) != len(self.conditions):
            raise ValueError(
                f"got conditions {list(self.conditions)}, expected one or more different ones"
            )
        if self.retrieval not in ("gold", "retriever"):
            # A type checker sees it; the library's callers may have none.
            raise ValueError(f"got retrieval {self.retrieval!r}, expected gold or retriever")
        if self.k < 1 or self.chunk < 1:
            raise ValueError(f"got k {self.k} and chunk {self.chunk}, expected 1 or more of both")
        if most > self.k:
            raise ValueError(
                f"got a condition of the first {most} documents with k {self.k}, expected no more "
                "than k: raise k, or lower what stands behind the @"
            )
