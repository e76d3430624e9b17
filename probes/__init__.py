"""One module or package a probe; every `Probe` found in here is listed, run and tested."""
