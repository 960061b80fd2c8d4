"""Build: settings go in, the pipeline they describe comes out.

`Setup` is the part of the command line and of the YAML files that all commands share.
`build_parametrizer` is the one place that chooses between the trained and the generated path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from prag_core.adapter import Parametrizer
from prag_core.adapter_store import AdapterStore
from prag_core.answers import AnswerOptions
from prag_core.augmentation import Augmenter, CachedAugmenter, FileAugmenter
from prag_core.decoding_rows import GenerationOptions
from prag_core.documents import Document
from prag_core.export import from_peft
from prag_core.lora_training import LoraTrainer
from prag_core.models import EMBEDDED_NAME, BaseModel, load_base_model
from prag_core.pipeline import ParametricRAG
from prag_core.retrieval import make_retriever
from prag_core.self_augmentation import SelfAugmenter
from prag_core.span_augmentation import SpanAugmenter
from prag_core.training_loop import SPEED_OPTIONS, LoraTrainingOptions, RefineOptions


@dataclass(frozen=True)
class AugmentationOptions:
    """How a document gets rewrites and question-answer pairs.

    Attributes:
        strategy: `span` (answer spans first; for small models), `self` (asks for JSON, as the
            paper does) or `file` (ready-made pairs).
        rewrites: rewrites a document (paper: 1).
        qa_pairs: question-answer pairs a document, at most (paper: 3).
        model: another model that writes them; the base model when empty.
        file: JSON lines {"document", "question", "answer"}, for strategy `file`.
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
        if file.suffix not in (".md", ".svg"):  # a card and its pictures do not change the weights
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest() if files else ""


@dataclass(frozen=True)
class Setup:
    """What every command builds its pipeline from.

    Attributes:
        base_model: hub name, local folder, GGUF file, or `smollm2-135m` (embedded).
        dtype: `auto` (see `load_base_model`), `bfloat16` or `float32`.
        device: `auto`, `cpu` or `cuda`.
        path: who makes the adapters: `trained` (one small training a document), `generated`
            (one forward pass of a hypernetwork) or `refined` (generated, then a few steps).
        hypernet: checkpoint of the generated and the refined path: folder or hub name.
        hypernet_rank: rows a module of a generated adapter, on average; 0: one a token.
        retriever: `auto`, `bm25` or `bm25s` (chosen by itself above 20,000 documents).
        augmentation: rewrites and question-answer pairs.
        training: the trained path.
        refining: the refined path.
        generation: decoding.
        answering: prompt style and merge weights.
    """

    base_model: str = EMBEDDED_NAME
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"
    path: Literal["trained", "generated", "refined"] = "trained"
    hypernet: str = "checkpoints/smollm2-135m-ridge"
    hypernet_rank: int = 0
    retriever: Literal["auto", "bm25", "bm25s"] = "auto"
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    training: LoraTrainingOptions = field(default_factory=LoraTrainingOptions)
    refining: RefineOptions = field(default_factory=RefineOptions)
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    answering: AnswerOptions = field(default_factory=AnswerOptions)

    def answer_config(self) -> dict:
        """Return the settings that answers depend on, to be kept beside results."""
        config = asdict(self)
        config["generation"].pop("batch_size")
        for name in SPEED_OPTIONS:
            config["training"].pop(name)
            config["refining"].pop(name)
        used = {
            "trained": ("training",),
            "generated": ("hypernet", "hypernet_rank"),
            "refined": ("hypernet", "hypernet_rank", "refining"),
        }[self.path]
        unused = {"device", "training", "hypernet", "hypernet_rank", "refining"}.difference(used)
        for name in unused:
            config.pop(name)
        names = [config.get("hypernet"), config.get("training", {}).get("init")]
        names.append(config["augmentation"]["file"])
        config["contents"] = {name: content_hash(name) for name in names if name}
        return config


def build_augmenter(
    base: BaseModel,
    options: AugmentationOptions,
    store: AdapterStore,
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
    writer = load_base_model(options.model) if options.model else base
    kind = SpanAugmenter if options.strategy == "span" else SelfAugmenter
    return CachedAugmenter(kind(writer, options.rewrites, options.qa_pairs), store)


def build_parametrizer(
    base: BaseModel, setup: Setup, store: AdapterStore, documents: Sequence[Document] = ()
) -> Parametrizer:
    """Build the parametrizer of the chosen path.

    Raises:
        ValueError: settings that do not fit the base model.
        FileNotFoundError: no such hypernetwork checkpoint or initial adapter.
    """
    if setup.path != "trained":
        from hypernet.parametrizer import HypernetParametrizer  # not needed by the trained path

        rank = setup.hypernet_rank or None
        generated = HypernetParametrizer.from_pretrained(setup.hypernet, base, rank=rank)
        if setup.path == "generated":
            return generated
    augmenter = build_augmenter(base, setup.augmentation, store, documents)
    if setup.path == "refined":
        from hypernet.refine import RefinedParametrizer

        return RefinedParametrizer(generated, augmenter, setup.refining)
    init = from_peft(setup.training.init, base) if setup.training.init else None
    return LoraTrainer(base, augmenter, setup.training, init)


def assemble(
    setup: Setup, store: AdapterStore, documents: Sequence[Document] = ()
) -> ParametricRAG:
    """Load the base model and put the pipeline together over an open store.

    Args:
        setup: settings.
        store: where adapters and documents are kept.
        documents: the corpus that an augmentation file names; the store's own when omitted.
    """
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    corpus = documents or [Document(**record) for _, record in store.records("document")]
    return ParametricRAG(
        base,
        make_retriever(setup.retriever),
        build_parametrizer(base, setup, store, corpus),
        store,
        generation=setup.generation,
        options=setup.answering,
    )


@contextmanager
def build_pipeline(
    setup: Setup, store: str | Path, documents: Sequence[Document] = ()
) -> Iterator[ParametricRAG]:
    """Open the store and assemble the pipeline over it; closes the store at the end."""
    with AdapterStore(store) as opened:
        yield assemble(setup, opened, documents)
