"""The search for the variant to serve: what is asked, what is built and judged, what is chosen, and where it is kept."""
