"""The only importers of third-party engines; one module a library, each naming the quirks it walls off."""
