"""Training: question sets and corpora go in, a trained hypernetwork comes out.

Lightning module and data, losses, callbacks.
"""
