"""Retrieval quality: data sets, exact search, metrics and what a sample can show (extra `eval`)."""
