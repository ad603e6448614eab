"""The OREAL objective on plain tensors (arXiv 2502.06781): no Megatron, no process groups, no configuration files.

rewards -> advantages    -> select    -> token RM scores -> token_weights -> policy_loss, token_rm_loss
           advantage.py     selection.py                    token_weights.py  losses.py; mismatch.py
objective.py: the choices that these have, and the counts that the losses divide by. It alone needs no torch, for the configuration.

To be read first: reference.py, a whole iteration in plain torch and transformers, which nothing of the package imports.
"""
