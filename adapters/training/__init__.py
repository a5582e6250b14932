"""Training adapters: recipes, the gate of servability, one process to many nodes, composition, and providers' jobs."""
