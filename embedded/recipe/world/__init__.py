"""The closed world of the embedded base: what can be asked, and what the answers are.

`words` and `facts` are the vocabulary and the knowledge; each other module draws one kind of dialogue from a random
source. Nothing here is downloaded: word lists are typed by hand, facts are general knowledge, texts are templates.
"""
