"""The command `megatron-oreal`: main finds the module of a subcommand, bench those of tools/, complete answers a shell's Tab."""
