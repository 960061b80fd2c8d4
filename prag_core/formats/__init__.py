"""Formats: an adapter to and from other tools.

Stock PEFT folders (PEFT, vLLM) and GGUF LoRA files (llama.cpp).
"""
