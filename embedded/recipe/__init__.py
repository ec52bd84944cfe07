"""The program that makes the embedded model again from a seed: data, tokenizer, weights, example adapters.

Read it in this order: `world` (what can be talked about), `instructions`, `patterns` and `rawtext` (how),
`skills` (what the adapters learn), `mixture` (all of it together), `tokenizer`, `batches`, `pretrain`,
`adapters`, `score`. `python -m embedded.recipe all` runs it.
"""
