"""The inference log: one row per prediction, as Parquet."""
