"""LoRA on vLLM's CPU build: right for rows of the base model, and without a gather of weights per token.

``blocks`` splits a step's rows into blocks, once a step; ``slots`` holds a layer's weights of all slots, so that a
block takes two matrix products; ``wrapper`` puts both in the place of vLLM's own wrapper. Sharded adapters, and those
of another dtype than the base, go through vLLM's wrapper and the corrected operations of ``gathered``.
"""
