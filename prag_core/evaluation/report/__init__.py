"""Report: results go in; tables, figures and pages come out."""
