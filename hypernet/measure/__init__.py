"""Measure: what a checkpoint's adapters carry."""
