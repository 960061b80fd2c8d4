"""Build: settings go in, the parts of the pipeline that they describe come out.

`build_parametrizer` finds who makes the adapters by name among the entry points of PARAMETRIZERS,
functions (base model, setup, function that builds the augmenter) -> Parametrizer, so that other
packages can bring theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from itertools import chain

from prag_core.adapters.adapter import Adapter, Parametrizer
from prag_core.adapters.store import AdapterStore
from prag_core.augmentation.augmented import Augmenter, CachedAugmenter, FileAugmenter
from prag_core.augmentation.question_lists import ListAugmenter
from prag_core.augmentation.self_augmenter import SelfAugmenter
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.augmentation.writing_augmenter import WritingAugmenter
from prag_core.corpus.documents import Document
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.catalogue import EMBEDDED_NAME
from prag_core.pipeline.setup import AugmentationOptions, Setup
from prag_core.retrieval.factory import make_retriever
from prag_core.retrieval.retriever import Retriever
from prag_core.training.initial import (
    READER,
    WARMUP,
    WRITER,
    adapter_folder,
    load_adapter,
    load_reader,
    load_writer,
)
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.options import GENERATED_INIT

PARAMETRIZERS = "prag.parametrizers"  # entry point group
# What strategies read of the options beside the number of pairs.
READ = {
    "span": ("rewrites", "facts"),
    "adapter": ("rewrites", "facts", "model", "adapter", "reader"),
    "writer": ("rewrites", "facts", "model"),
    "self": ("rewrites", "model"),
    "file": ("file",),
}


def build_augmenter(
    base: BaseModel,
    options: AugmentationOptions,
    store: AdapterStore | None,
    documents: Sequence[Document] = (),
) -> Augmenter:
    """Build the chosen augmenter; what a model writes is cached in the store.

    Raises:
        ValueError: strategy `file` without a file, or a file that does not fit the documents; what
            the strategy does not read.
        FileNotFoundError: no such file, or the model that writes cannot be had.
    """
    strategy, model = options.strategy, options.model
    if strategy == "auto":
        strategy = "writer" if model else "adapter" if options.adapter else "span"
        strategy = "file" if options.file else strategy
        if strategy == "adapter" and not adapter_folder(options.adapter, base, WRITER):
            model = EMBEDDED_NAME  # its writer is small, and questions are text for any base model
    _require_read(options, strategy)
    if strategy == "file":
        if not options.file:
            raise ValueError(
                "got augmentation strategy 'file' without a file, expected JSON lines of "
                "question-answer pairs: set --augmentation.file"
            )
        return FileAugmenter(options.file, documents)
    counts = options.rewrites, options.qa_pairs, options.facts
    if strategy == "span":  # rules are fast: nothing to cache
        return SpanAugmenter(*counts)
    try:
        dtype = str(base.dtype).removeprefix("torch.")
        writer = load_base_model(model, dtype, str(base.device)) if model else base
    except FileNotFoundError as error:
        if model == options.model:  # as it was named
            raise
        raise FileNotFoundError(
            f"got nobody to ask questions about the documents: {error}; or train on questions by "
            "rule alone (--augmentation.adapter '')"
        ) from error
    augmenter: Augmenter
    if strategy == "writer":
        augmenter = WritingAugmenter(writer, *counts)
    elif strategy == "adapter":
        reader = load_reader(options.reader, writer)
        asking = load_writer(options.adapter, writer)
        augmenter = ListAugmenter(writer, asking, *counts, reader=reader)
    else:
        augmenter = SelfAugmenter(writer, options.rewrites, options.qa_pairs)
    return augmenter if store is None else CachedAugmenter(augmenter, store)


def _require_read(options: AugmentationOptions, strategy: str) -> None:
    """Raise ValueError for options that are set, but that the strategy does not read."""
    usual = AugmentationOptions()
    for name in dict.fromkeys(chain(*READ.values())):
        value = getattr(options, name)
        if value and value != getattr(usual, name) and name not in READ[strategy]:
            readers = [repr(other) for other, names in READ.items() if name in names]
            raise ValueError(
                f"got augmentation.{name} {value!r} with strategy {strategy!r}, which does not "
                f"read it, expected {' or '.join(readers)}: set augmentation.strategy, or leave "
                f"augmentation.{name} out"
            )


def build_retriever(setup: Setup, documents: Iterable[Document] = ()) -> Retriever:
    """Build the retriever of the settings over some documents; errors as in `make_retriever`."""
    least = setup.least_coverage, setup.least_similarity
    return make_retriever(setup.retriever, documents, *least)


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
    # What every document's training starts from: the generated path's adapter of it, or one warm-up
    # adapter (`prag warmup`).
    init: Adapter | Parametrizer | None
    if setup.training.init == GENERATED_INIT:
        start = replace(setup, path=GENERATED_INIT, hypernet_rank=setup.training.rank)
        init = build_parametrizer(base, start, None)
    else:
        init = load_adapter(setup.training.init, base, WARMUP)
    learns = setup.training.distillation > 0
    teacher = load_adapter(setup.training.teacher, base, READER) if learns else None
    return LoraTrainer(base, augmenter(), setup.training, init, teacher)
