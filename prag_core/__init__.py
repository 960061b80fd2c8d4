"""Parametric retrieval-augmented generation: documents become LoRA adapters, adapters answer.

Knowledge reaches a frozen language model as weights, not as prompt text:

    document -> (augment -> train LoRA | encode -> hypernetwork) -> Adapter -> store
    question -> retrieve -> adapters -> merge -> attach + generate -> Answer -> evaluate

A parametrizer turns documents into adapters. Two exist: `trained` (Su et al., 2025, arXiv
2501.15915: one small training a document) and `generated` (the package hypernet: one forward pass
a document). After the adapter there is one path, whoever made it. In short:

    from prag_core import ParametricRAG

    rag = ParametricRAG.from_pretrained("smollm2-135m", store="runs/store")  # generated adapters
    rag.add_documents(["The bakery in Ostrel was founded by Mira Kolven in 1931."])
    print(rag.answer("When was the bakery in Ostrel founded?", mode="parametric", k=1)[0].text)

and the same by hand:

    from prag_core import Document, LoraTrainer, generate, load_base_model, merge

    base = load_base_model()
    adapters = LoraTrainer(base, augmenter).parametrize([Document("..."), Document("...")])
    texts = generate(base, prompts, [merge(adapters)] * len(prompts))

The folders, in the order of the data:

- corpus: documents and question sets, their readers, chunks, how an answer is scored
- retrieval: a question goes in, the k best documents come out (BM25)
- adapters: `Adapter` and its spec, merge, smaller ranks, the store
- model: the frozen base model, prompts, attach, generate
- formats: adapters to and from PEFT and GGUF
- augmentation: rewrites and question-answer pairs of a document
- training: the trained path, many documents at once
- pipeline: modes, `Answerer` (the one way from documents to answers), `ParametricRAG`
- evaluation: condition x question set = cell; evaluate, benchmark, compare, their reports
- server: the pipeline behind OpenAI's API
- speed: every path timed beside its baseline
- commands, cli.py: the command line `prag`, one file a command

Imports go down only: a folder knows those above it in this list, never those below.

Shape letters in every comment: N documents (or batch rows), T tokens, L layers, R rank,
I in features, O out features, H hidden size, V vocabulary size.
"""

from importlib import import_module

__version__ = "0.1.0"

# Public names and where they stand. They are imported when they are used (PEP 562): importing the
# package loads neither torch nor transformers, which take seconds.
_PLACES = {
    "Adapter": "prag_core.adapters.adapter",
    "AdapterStore": "prag_core.adapters.store",
    "Document": "prag_core.corpus.documents",
    "LoraTrainer": "prag_core.training.lora_trainer",
    "ParametricRAG": "prag_core.pipeline.rag",
    "evaluate": "prag_core.evaluation.evaluate",
    "generate": "prag_core.model.generate",
    "load_base_model": "prag_core.model.base_model",
    "load_question_set": "prag_core.corpus.question_sets",
    "merge": "prag_core.adapters.merge",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value  # found without this function from here on
    return value


def __dir__() -> list[str]:
    """List the public names too, loaded or not."""
    return sorted({*globals(), *__all__})
