"""Answers for `olivebuild serve`, token by token with their likelihoods."""
