"""SGLang servers: started and watched (server, supervisor), found (registry), told what to do (control), and as rank 0 sees them (engines)."""
