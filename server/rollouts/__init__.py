"""Rollouts in live traffic: the side of each request, what is counted of it, guards, and the candidate's shadow."""
