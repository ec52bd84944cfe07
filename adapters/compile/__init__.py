"""The adapter compiler: turns other PEFT kinds into plain LoRA that the engine serves exactly, or refuses them.

It runs in a child process that ``adapters.compile.adapter_compiler`` starts, and as ``python -m adapters.compile``.
No other package under ``adapters`` imports torch or PEFT.
"""
