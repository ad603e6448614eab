"""Engines that are simulated: SGLang's calls by the plan's decode times, and the real conductor against sixteen of them (README.md)."""
