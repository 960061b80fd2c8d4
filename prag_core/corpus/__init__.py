"""Corpus: files go in, documents and question sets come out.

Readers (`documents`, `questions`, `question_sets`, `records`), chunking, and how an answer is
scored against the golden ones (`answer_scores`).
"""
