"""The closed world the embedded base lives in: what can be asked about, and what the answers are.

`words` and `facts` are the vocabulary and the knowledge; the other modules each draw one kind of exchange
from a random source. Nothing here comes from a download: word lists are typed by hand, facts are general
knowledge, texts are templates.
"""
