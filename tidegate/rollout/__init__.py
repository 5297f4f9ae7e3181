"""Rollouts: the stepwise shift of traffic to a canary, and the judge that decides after each look."""
