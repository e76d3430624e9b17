"""Statistics, norms and other arithmetic that probes and the gate share; modules are imported one by one."""
