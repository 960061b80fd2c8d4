"""Training: question sets and corpora go in, a trained hypernetwork comes out.

Lightning module and data, losses, callbacks; the ablation of its parts, and question sets of facts
hidden in long texts.
"""
