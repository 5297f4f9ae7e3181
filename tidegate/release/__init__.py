"""Releases: the steps from features to a promoted version, each leaving its evidence in the release record."""
