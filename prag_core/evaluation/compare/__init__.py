"""Compare: trained and generated adapters of the same documents, side by side in one report.

cells of `evaluate` -> quality, merging;  adapters -> knowledge, similarity, side effects, cost
"""
