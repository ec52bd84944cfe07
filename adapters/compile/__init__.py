"""The adapter compiler: turns other PEFT kinds into plain LoRA that the engine serves exactly, or refuses them.

It runs as a program, ``python -m adapters.compile``, in a child process that ``adapters.compile.adapter_compiler``
starts.
No other package under ``adapters`` imports torch or PEFT.
"""
