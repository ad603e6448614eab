"""A language model that is asked. prompt: the question, and how a reply is read; cache: verdicts on disk; hosts: which of them is asked;
judge: all of it."""
