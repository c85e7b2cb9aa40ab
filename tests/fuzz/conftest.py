# Programs to be run by hand: --doctest-modules would import them.
collect_ignore_glob = ["fuzz_*.py"]
