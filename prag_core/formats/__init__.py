"""Formats: an adapter goes to other tools and comes back.

Stock PEFT folders (PEFT), flat views of a store and merges by name (vLLM), GGUF LoRA files
(llama.cpp). GGUF has no place for a ridge memory: such an adapter comes back as plain LoRA rows,
which a merge sums. README.md has the commands for each engine, and what each can do.
"""
