"""Names that options are checked against; importing them loads no torch."""

FFN_MODULES = ("gate_proj", "up_proj", "down_proj")
INT8 = "int8"  # dtype of stored adapters alone: in memory they are float32
METHODS = ("auto", "concatenate")  # of a merge, see `merge`
WEIGHTINGS = ("ones", "mean", "score", "relative")  # of several documents, see `merge_weights`
GRACE = 3600.0  # seconds that files of a store must have lain unused before they are swept
