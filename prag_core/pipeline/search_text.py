"""Search text: a question as it was asked goes in, the text that is searched for comes out.

A question is searched for as it is. Of a conversation, the turns from the last one that says by
itself what it is about: "And in which year was that?" is searched for with what it refers to, a
new subject alone. Of shots, the question that they end with; of a text to go on from, its last
paragraph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import regex

from prag_core.corpus.questions import Question as Record
from prag_core.model.prompts import Continuation, Conversation, Question
from prag_core.retrieval.analyzer import analyze

ANSWER_WORDS = 30  # of an earlier answer; the rest of a long one would outweigh the questions
# Words that ask for a property and name nothing.
PROPERTIES = """
    age ago amount answer argument big called century city color colour continue cost country date
    day detail else example exactly exist far first good happen hour important kind know large last
    long many mean meaning month much name new number often old ok part people person place please
    price reason really same second size small sort sure tall tell thank thanks thing time town true
    type use year yes
"""
# The same, and the small words around them, of other languages.
FOREIGN = """
    aber am auch auf bei bist da danke dann das dem den der des die ein eine einem einer einen es
    genau gibt hast hat hatte im ist jahr ja land mehr mit monat noch ort passiert sind stadt tag
    und von wann war waren warum was weiter welche welchem welchen welcher welches wer wessen wie
    wie viel viele wieso wo woher wohin wurde wurden zu
    an année ans aussi avec c'est c'était ce ces cette combien comment date de des dans du en est et
    était fut il ils jour la le les lieu mais merci mois où par pays pourquoi quand que quel quelle
    quelles quels qui quoi siècle un une ville ça
    al año años ciudad como cómo con cuál cuándo cuánto cuántos del dónde el en era es eso esto fue
    fueron gracias la las lo los lugar mes país pero por qué quién quiénes siglo un una y
    anno che chi città come cosa dove era è giorno grazie ha il lo ma mese paese perché quale quali
    quando quanto stato
    ano cidade e em foi isso onde o obrigado qual quem
    dank dat de een en het hoe in is jaar wanneer waar waarom welk welke wie
    哪一年 哪年 哪里 哪儿 在哪 什么时候 何时 为什么 怎么 多少 是谁 是什么 谢谢
    いつ いつですか どこ どこですか だれ 誰ですか なぜ なぜですか 何年 何年ですか
    언제 언제입니까 언제인가요 어디 어디입니까 어디인가요 누구입니까 누구인가요 몇 년
"""
NO_NAMES = frozenset(analyze(PROPERTIES + FOREIGN).words)
PRONOUNS = """
    he she it they him her them his hers its their theirs 它 他 她 它们 他们 这 那 其
    それ その これ この 彼 彼女 그 그는 그녀 이것 그것
    er sie ihn ihm ihr dessen deren ihre seine elle lui cela celui ella eso
"""
POINTERS = "this that these those there then"  # they may stand before a noun, or join sentences
REFERRING = regex.compile(rf"\b(?:{'|'.join(PRONOUNS.split())})\b|[它他她]|[这那][个是]", regex.I)
POINTING = regex.compile(rf"\b(?:{'|'.join(POINTERS.split())})\b", regex.I)
CONTINUING = regex.compile(r"\s*(?:and|but|so|also|what about|how about)\b", regex.I)
NAME = regex.compile(r"(?<=\S\s+)(?!I\b)\p{Lu}|\d")  # a capital within a sentence, or a number
LABEL = regex.compile(r"^[ \t]*([^\W\d_]\w*(?: \w+)?)[ \t]*[:：][ \t]*(.*)$", regex.M)
ANSWERS = frozenset(
    "answer a response output assistant antwort réponse respuesta 答 答案 回答".split()  # noqa: SIM905
)
SHOT = regex.compile(r"[?？]|=>|->|→")  # stands in every shot without labels
INLINE = regex.compile(  # Q: ... A: ... Q: ... A:
    r".*\b(?:question|q)[:：]\s*(.+?)(?:\s(?:answer|a)[:：].*)?$", regex.I | regex.S
)


def as_questions(questions: object) -> list[Question]:
    """Take one question or many: texts, `corpus.questions.Question`s, conversations, continuations.

    Raises:
        ValueError: anything else, by the name of its type.
    """
    single = _is_question(questions)
    foreign = isinstance(questions, (bytes, Mapping)) or not isinstance(questions, Iterable)
    if foreign and not single:
        raise ValueError(
            f"got a {type(questions).__name__}, expected a question or a list of them: convert it"
        )
    items: list[Any] = [questions] if single else list(cast(Iterable[Any], questions))
    for number, item in enumerate(items):
        if not _is_question(item):
            raise ValueError(
                f"got a {type(item).__name__} as number {number} of the questions, expected a text"
            )
    return [_as_question(number, item) for number, item in enumerate(items)]


def _as_question(number: int, item: Any) -> Question:
    """Take one question; of a conversation, turns without content (calls of tools) are empty."""
    if isinstance(item, Record):
        return item.question
    if isinstance(item, (str, Continuation)):
        return item
    turns = [
        {**turn, "content": turn.get("content") or ""} if isinstance(turn, Mapping) else {}
        for turn in item
    ]
    texts = [(turn.get("role"), turn.get("content")) for turn in turns]
    if not all(isinstance(text, str) for pair in texts for text in pair) or not texts[-1][1]:
        raise ValueError(
            f"got other than text in the conversation that is number {number} of the questions, "
            "expected turns of role and content, the last one with the question: correct it"
        )
    return [{name: v for name, v in turn.items() if isinstance(v, str)} for turn in turns]


def _is_question(item: object) -> bool:
    turns = isinstance(item, Sequence) and bool(item) and isinstance(item[0], Mapping)
    return turns or isinstance(item, (str, Record, Continuation))


def search_text(question: Question) -> str:
    """Return the text that documents are searched for."""
    if isinstance(question, Continuation):
        return _last_question(question.text) or _last_shot(_last_paragraph(question.text))
    if isinstance(question, str):
        return question
    return _conversation_text(question)


def _conversation_text(turns: Conversation) -> str:
    """Return the turns of users, and the beginnings of answers, since the subject was named."""
    last = turns[-1]["content"]
    texts = [_last_question(last) or last]
    for turn in reversed(turns[:-1]):
        content = turn["content"] or ""
        if turn["role"] == "user":
            if not _refers_back(texts[0]):
                break
            texts = [content, *texts]
        elif turn["role"] == "assistant" and _refers_back(texts[0]):
            texts[1:1] = [" ".join(content.split()[:ANSWER_WORDS])]
    return "\n".join(texts)


def _refers_back(text: str) -> bool:
    """Say whether a turn leaves open what it is about."""
    naming = set(analyze(text).words) - NO_NAMES
    if not naming:
        return True
    name, pronoun = NAME.search(text), REFERRING.search(text)
    if pronoun:  # "Was he born in Berlin?", not "Who was Ada, and when did she die?"
        return name is None or pronoun.start() < name.start()
    # "How high is that tower?"; in a longer turn `that` rather joins sentences.
    pointing = len(naming) == 1 and POINTING.search(text)
    return name is None and bool(CONTINUING.match(text) or pointing)


def _last_question(text: str) -> str:
    """Return the question behind shots (`Question: ... Answer:`), empty for another text."""
    text = text.rstrip()
    labels = list(LABEL.finditer(text))
    if not labels:
        return ""
    cue = labels[-1]
    name = cue[1].lower()
    if cue.end() < len(text) or (cue[2] and name not in ANSWERS):  # no place for an answer
        asked = INLINE.match(cue[0]) if cue.end() == len(text) else None
        return asked[1].strip() if asked else ""
    before = text[: cue.start()].rstrip()
    answers = [label for label in labels[:-1] if label[1].lower() == name]
    if answers:  # what follows the last shot
        before = before[answers[-1].end() :]
    parts = list(LABEL.finditer(before))
    if parts:
        return before[parts[-1].start(2) :].strip()
    return _last_paragraph(before)


def _last_paragraph(text: str) -> str:
    """Return the last paragraph, with those before it where it has no words to search for."""
    paragraphs = [part.strip() for part in regex.split(r"\n\s*\n", text) if part.strip()]
    for start in range(len(paragraphs) - 1, -1, -1):
        if analyze(paragraphs[start]).words:
            return "\n\n".join(paragraphs[start:])
    return text.strip()


def _last_shot(paragraph: str) -> str:
    """Return the last of several questions (`... ?`, `... =>`), one a line; else the whole."""
    lines = paragraph.splitlines()
    marked = [number for number, line in enumerate(lines) if SHOT.search(line)]
    return "\n".join(lines[marked[-1] :]) if len(marked) > 1 else paragraph
