"""stand-in, replaced below"""
def bench(output: str = "runs/bench") -> None:
    """Measure."""
