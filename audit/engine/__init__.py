"""Plan, run and store: hands probes what they need and keeps what they find."""
