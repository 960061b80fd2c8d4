"""Build: settings go in, the pipeline they describe comes out.

`Setup` is the part of the command line and of the YAML files that all commands share.
`build_parametrizer` finds who makes the adapters by name among the entry points of PARAMETRIZERS,
functions (base model, setup, function that builds the augmenter) -> Parametrizer, so that other
packages can bring theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from prag_core.adapters.adapter import Adapter, Parametrizer
from prag_core.adapters.store import AdapterStore
from prag_core.augmentation.augmented import Augmenter, CachedAugmenter, FileAugmenter
from prag_core.augmentation.self_augmenter import SelfAugmenter
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.corpus.documents import Document
from prag_core.formats.peft_folder import from_peft
from prag_core.model.base_model import EMBEDDED_NAME, BaseModel, load_base_model
from prag_core.model.decoding_rows import GenerationOptions
from prag_core.pipeline.answers import AnswerOptions
from prag_core.retrieval.bm25 import LEAST_COVERAGE
from prag_core.retrieval.dense import LEAST_SIMILARITY
from prag_core.retrieval.factory import check_name, make_retriever
from prag_core.retrieval.retriever import Retriever
from prag_core.training.loop import SPEED_OPTIONS, LoraTrainingOptions
from prag_core.training.lora_trainer import LoraTrainer

PARAMETRIZERS = "prag.parametrizers"  # entry point group
AdapterPath = Literal["trained", "generated"]  # who makes adapters, of the paths in this repository
DEFAULT_PATH: AdapterPath = "generated"


@dataclass(frozen=True)
class AugmentationOptions:
    """How a document gets rewrites and question-answer pairs.

    Attributes:
        strategy: `span` (by rule, from answer spans), `self` (asks for JSON, as the
            paper does) or `file` (ready-made pairs).
        rewrites: rewrites a document (paper: 1).
        qa_pairs: question-answer pairs a document, at most (paper: 3).
        model: another model that writes them (`self`); the base model when empty.
        file: JSON lines {"document", "question", "answer"} (and "full_answer", for prompts with
            reasoning), for strategy `file`.
    """

    strategy: Literal["span", "self", "file"] = "span"
    rewrites: int = 0
    qa_pairs: int = 8
    model: str = ""
    file: str = ""


def content_hash(name: str) -> str:
    """Hash the files of a local file or folder, empty where there is none (a hub name, say)."""
    path, digest = Path(name), hashlib.blake2b(digest_size=8)
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
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
        reader: PEFT folder of the adapter that mode `reader` answers with (see `prag reader`).
        hypernet_rank: rows a module of a generated adapter, on average; 0: one a token.
        hypernet_dtype: that a generated adapter is stored in; `int8` has a scale a row.
        retriever: `auto`, `bm25` or `bm25s` (chosen by itself above 20,000 documents) search by
            words; `dense` or `dense:MODEL` (of sentence-transformers: hub name or folder) by
            meaning; `hybrid` or `hybrid:MODEL` by both.
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
            "generated": ("training",),
        }
        for name in ("device", *unread.get(self.path, ())):
            config.pop(name)
        # A path may hold other files tomorrow: their hashes are kept beside the names.
        paths = [config.get("hypernet"), config.get("training", {}).get("init"), self.reader]
        paths.append(config["augmentation"]["file"])
        config["contents"] = {path: content_hash(path) for path in paths if path}
        return config


def build_augmenter(
    base: BaseModel,
    options: AugmentationOptions,
    store: AdapterStore | None,
    documents: Sequence[Document] = (),
) -> Augmenter:
    """Build the chosen augmenter; what a model writes is cached in the store.

    Raises:
        ValueError: strategy `file` without a file, or a file that does not fit the documents.
    """
    if options.strategy == "file":
        if not options.file:
            raise ValueError(
                "got augmentation strategy 'file' without a file, expected JSON lines of "
                "question-answer pairs: set --augmentation.file"
            )
        return FileAugmenter(options.file, documents)
    if options.strategy == "span":  # rules are fast: nothing to cache
        return SpanAugmenter(options.rewrites, options.qa_pairs)
    writer = load_base_model(options.model) if options.model else base
    augmenter = SelfAugmenter(writer, options.rewrites, options.qa_pairs)
    return augmenter if store is None else CachedAugmenter(augmenter, store)


def build_retriever(setup: Setup, documents: Iterable[Document] = ()) -> Retriever:
    """Build the retriever of the settings over some documents; errors as in `make_retriever`."""
    least = setup.least_coverage, setup.least_similarity
    return make_retriever(setup.retriever, documents, *least)


def build_reader(base: BaseModel, setup: Setup) -> Adapter | None:
    """Load the adapter of mode `reader`, where the settings name one; errors as in `from_peft`."""
    return from_peft(setup.reader, base) if setup.reader else None


def build_parametrizer(
    base: BaseModel, setup: Setup, store: AdapterStore | None, documents: Sequence[Document] = ()
) -> Parametrizer:
    """Build the parametrizer of the chosen path, found by its name among PARAMETRIZERS.

    Args:
        base: base model.
        setup: settings; `path` names the entry point.
        store: keeps what a model wrote about documents (`build_augmenter`).
        documents: that an augmentation file names.

    Raises:
        ValueError: no such path, or settings that do not fit the base model.
        FileNotFoundError: no such hypernetwork checkpoint or initial adapter.
    """
    # By entry point, so that this package imports no hypernetwork.
    known = {point.name: point for point in entry_points(group=PARAMETRIZERS)}
    if setup.path not in known:
        raise ValueError(
            f"got path {setup.path!r}, expected one of {', '.join(sorted(known))}: name another, "
            f"or install the package that registers it under {PARAMETRIZERS}"
        )
    # A function: a path that needs no augmenter must not load the model that writes.
    augmenter = partial(build_augmenter, base, setup.augmentation, store, documents)
    parametrizer: Parametrizer = known[setup.path].load()(base, setup, augmenter)
    return parametrizer


def trained(base: BaseModel, setup: Setup, augmenter: Callable[[], Augmenter]) -> LoraTrainer:
    """Build the parametrizer of the trained path (entry point `trained`)."""
    # A warm-up adapter (`prag warmup`), from which every document's training starts.
    init = from_peft(setup.training.init, base) if setup.training.init else None
    return LoraTrainer(base, augmenter(), setup.training, init)
