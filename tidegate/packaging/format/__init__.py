"""The model package on disk: its manifest, files and digests, golden sample, card, bill of materials and signature."""
