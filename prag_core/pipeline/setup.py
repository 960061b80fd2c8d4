"""Setup: the part of the command line and of the YAML files that all commands share.

Importing it loads no torch; `parts` builds a pipeline from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prag_core.model.catalogue import EMBEDDED_NAME
from prag_core.model.checkpoints import local_place
from prag_core.model.options import GenerationOptions
from prag_core.pipeline.answers import AnswerOptions
from prag_core.retrieval.bm25 import LEAST_COVERAGE
from prag_core.retrieval.dense import LEAST_SIMILARITY
from prag_core.retrieval.factory import check_name
from prag_core.training.options import GENERATED_INIT, SPEED_OPTIONS, LoraTrainingOptions

AdapterPath = Literal["trained", "generated"]  # who makes adapters, of the paths in this repository
DEFAULT_PATH: AdapterPath = "generated"


@dataclass(frozen=True)
class AugmentationOptions:
    """How a document gets rewrites and question-answer pairs.

    Attributes:
        strategy: `span` (by rule, from answer spans), `adapter` (these, and before them the
            questions of a LoRA that was trained to ask as people do, see `prag writer`), `writer`
            (these, and before them a model's questions in several kinds, checked, and its
            rewrites), `self` (asks for JSON, as the paper does) or `file` (ready-made pairs);
            `auto`: `file` where one is named, `writer` where a model is, else `adapter`, by the
            embedded model and its writer where none is named or shipped for the base model; `span`
            where `adapter` is empty. What a strategy does not read is refused.
        rewrites: rewrites a document (paper: 1).
        qa_pairs: question-answer pairs a document, at most (paper: 3).
        facts: take the text apart into sentences of one fact each, by rule (`span`, `adapter`,
            `writer`) and by the model (`writer`), for questions on them and for
            `training.continuations`.
        model: another model that writes (`writer`, `self`); the base model when empty.
        adapter: PEFT folder of the LoRA that asks (`adapter`), of the base model or of `model`;
            `auto`: the one that is shipped for it.
        reader: PEFT folder of a LoRA that reads (`adapter`; see `prag reader`), of the model that
            asks, or `auto`: of the questions those are kept that it answers alike; all when empty.
        file: JSON lines {"document", "question", "answer"} (and "full_answer", for prompts with
            reasoning), for strategy `file`.
    """

    strategy: Literal["auto", "span", "adapter", "writer", "self", "file"] = "auto"
    rewrites: int = 0
    qa_pairs: int = 20
    facts: bool = False
    model: str = ""
    adapter: str = "auto"
    reader: str = ""
    file: str = ""


@dataclass(frozen=True)
class RayOptions:
    """How the blocks are spread over a Ray cluster.

    The cluster is that of RAY_ADDRESS, or else a new one on this machine.

    Attributes:
        actors: processes that make adapters; each loads the base model.
        cpus: of each. All actors together must leave the cluster one CPU, or Ray waits for ever.
        gpus: of each, 0.5 for two actors on one.
    """

    actors: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for sizes out of range."""
        if self.actors < 1 or self.cpus < 0 or self.gpus < 0:
            raise ValueError(f"got {self}, expected 1 actor or more, and no negative sizes")


def content_hash(name: str) -> str:
    """Hash the files of a local file or folder, or of what is shipped under a name.

    Empty where there is none (a hub name, say). Hidden files of a folder do not count: what is
    being written lies there under such a name.
    """
    path, digest = local_place(name), hashlib.blake2b(digest_size=8)
    shown = (p for p in path.glob("*") if not p.name.startswith(".") and p.is_file())
    files = [path] if path.is_file() else sorted(shown)
    for file in files:
        # Beside weights lie a card and results, which do not change them.
        results = file.suffix == ".json" and "config" not in file.name
        beside = results or file.suffix in (".md", ".svg")
        if path.is_file() or not beside:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest() if files else ""


@dataclass(frozen=True)
class Setup:
    """What every command builds its pipeline from.

    Attributes:
        base_model: embedded (see `prag models`), hub name, local folder or GGUF file.
        dtype: `auto` (see `load_base_model`), `bfloat16`, `float16` or `float32`.
        device: `auto`, `cpu` or `cuda`.
        path: who makes the adapters: `trained` (one small training a document), `generated`
            (one forward pass of a hypernetwork, which must be of this base model), or a name that
            another package registers; `auto`: as those in the store, `generated` in a new one.
        hypernet: checkpoint of the generated path: shipped name, folder or hub name; `auto`: the
            shipped one of the base model.
        reader: PEFT folder of the adapter that mode `reader` answers with (see `prag reader`);
            `auto`: the one that is shipped for the base model; none when empty.
        hypernet_rank: rows a module of a generated adapter, on average; 0: one a token.
        hypernet_dtype: that a generated adapter is stored in; `int8` has a scale a row.
        retriever: `auto`, `bm25` or `bm25s` (chosen by itself above 20,000 documents, where it is
            installed) search by words; `dense` or `dense:MODEL` (of sentence-transformers: hub name
            or folder) by meaning; `hybrid` or `hybrid:MODEL` by both; `lancedb`, `lancedb:URI` or
            `elasticsearch:URL/INDEX` by words, where one machine is not enough.
        least_coverage: share of a question that one of its documents needs, by words; without, it
            is answered without documents (see `prag_core.retrieval.bm25`). 0: one common word is
            enough.
        least_similarity: cosine that a document needs to be found by meaning; depends on MODEL.
        augmentation: rewrites and question-answer pairs.
        training: the trained path.
        generation: decoding.
        answering: prompt and merge weights.
    """

    base_model: str = EMBEDDED_NAME
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = "auto"
    path: str = "auto"
    hypernet: str = "auto"
    reader: str = ""
    hypernet_rank: int = 0
    hypernet_dtype: Literal["bfloat16", "float16", "float32", "int8"] = "bfloat16"
    retriever: str = "auto"
    least_coverage: float = LEAST_COVERAGE
    least_similarity: float = LEAST_SIMILARITY
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    training: LoraTrainingOptions = field(default_factory=LoraTrainingOptions)
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    answering: AnswerOptions = field(default_factory=AnswerOptions)

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown retriever, before anything is loaded."""
        check_name(self.retriever)

    def answer_config(self) -> dict[str, Any]:
        """Return the settings that answers depend on, to be kept beside results."""
        config = asdict(self)
        for part, names in (("generation", ("batch_size",)), ("training", SPEED_OPTIONS)):
            for name in names:  # they change how long it takes, not what comes out
                config[part].pop(name)
        unread = {
            "trained": ("hypernet", "hypernet_rank", "hypernet_dtype"),
            "generated": ("training", "augmentation"),
        }
        if self.training.init == GENERATED_INIT:
            del unread["trained"]
        for name in ("device", *unread.get(self.path, ())):
            config.pop(name)
        # A path may hold other files tomorrow: their hashes are kept beside the names.
        paths = [config.get("hypernet"), self.reader]
        paths += [config.get("training", {}).get(name) for name in ("init", "teacher")]
        paths += [
            config.get("augmentation", {}).get(name) for name in ("adapter", "reader", "file")
        ]
        config["contents"] = {path: content_hash(path) for path in paths if path}
        return config
