"""The keys of conf/*.yaml as a person meets them: composed from a command line, typed, explained, and corrected where one is misspelt.

files: where conf/ is and what there is to choose; compose: overrides in, values out; typed: values as dataclasses; quoting: what Hydra's
grammar cannot read, and how to write it in a shell; nearest: what a misspelt name may have meant; meanings, text: what `--help` says.
Nothing here knows a key by name, or needs torch.
"""
