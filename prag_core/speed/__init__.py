"""Speed: paths, server and store go in, a table of times beside their baselines comes out.

Baselines are stock PEFT in a process of its own and the paper's settings; the store has limits in
their place. Both sides of a ratio are timed in one run.
"""

PARTS = ("train", "merge", "generate", "latency", "store", "serve")
# Measured when they are named, of what options say.
NAMED: dict[str, tuple[str, ...]] = {
    "stages": (),
    "vllm": ("vllm_python",),
    "places": ("places",),
    "retrieval": ("corpus", "question_sets"),
}
