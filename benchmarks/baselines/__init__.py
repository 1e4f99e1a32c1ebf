"""What eraflow is measured against, in our own words; for benchmarks only."""
