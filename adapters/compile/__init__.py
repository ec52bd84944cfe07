"""The adapter compiler: whatever PEFT can load becomes the plain LoRA that the engine serves exactly, or is refused.

It is a program, ``python -m adapters.compile``; ``adapters.confined.compiler`` runs it. The only place in ``adapters``
that knows torch and PEFT.
"""
