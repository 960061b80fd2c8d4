"""Formats: an adapter goes to other tools and comes back.

Stock PEFT folders (PEFT), flat views of a store (vLLM) and GGUF LoRA files (llama.cpp). GGUF has no
place for a ridge memory: such an adapter comes back as plain LoRA rows, which a merge sums.
"""
