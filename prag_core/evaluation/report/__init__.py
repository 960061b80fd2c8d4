"""Report: the parts of a comparison go in; tables, figures, a page and a W&B run come out.

    report.json -> Table -> terminal, page, W&B;  report.json -> Figure -> page, W&B

Nothing is measured here: what a report lacks is left out. An estimate is {"mean", "low", "high"}.
"""
