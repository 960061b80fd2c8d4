"""Compare: trained and generated adapters of the same documents, side by side."""
