"""SGLang servers: started and watched (server, supervisor), found (registry), directed (control), seen from rank 0 (engines).

routes: the ranks beside them. abilities: what is refused before one is started, because it could not do it.
"""
