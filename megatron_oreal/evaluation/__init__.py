"""Evaluation: question sets in, answers kept as they are verified, figures with intervals out; and which checkpoint is best."""
