"""Adapters: the contract of both parametrizers, how adapters merge, and where they are kept.

`Adapter` and `AdapterSpec`, `RidgeMemory` (what the rows of a generated adapter were solved from),
`merge` (exact sum; ridge memories are solved again together), smaller ranks (`low_rank`), likeness
(`similarity`), and `AdapterStore` (its index, places and changes in `store_*`).
"""
