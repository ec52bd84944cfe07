"""The program that makes the embedded model again from a seed: data, tokenizer, weights, example adapters.

Reading order: `world` (the content), `instructions`, `patterns` and `rawtext` (its forms), `skills` (the adapters' data
sets), `mixture` (the pretraining documents), `tokenizer`, `batches`, `pretrain`, `adapters`, `score`. Run it with
`python -m embedded.recipe all`.
"""
