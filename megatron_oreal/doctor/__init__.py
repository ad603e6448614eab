"""The preflight check: what would stop a run, or make it crawl, found in seconds and before its GPUs wait. See command.py.

findings: one line for each thing looked at; software, inputs, storage, services: what one node can tell; network: what takes several.
"""
