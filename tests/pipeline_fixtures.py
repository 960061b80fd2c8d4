"""Questions, prompts and options of the tests of the pipeline."""

from __future__ import annotations

from prag_core.decoding_rows import GenerationOptions
from prag_core.prompts import question_prompt

QUESTIONS = ["Where was Mira Voss born?", "Who built the bridge of Oss?", "What flows to the sea?"]
SHORT = GenerationOptions(max_new_tokens=6, batch_size=2)


def prompts(base, passages=()) -> list[str]:
    passages = passages or [()] * len(QUESTIONS)
    return [
        question_prompt(base.tokenizer, question, found)
        for question, found in zip(QUESTIONS, passages, strict=True)
    ]


def texts(answers) -> list[str]:
    return [answer.text for answer in answers]
