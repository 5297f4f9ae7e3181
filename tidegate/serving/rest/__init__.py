"""REST: HTTP connections, and the paths answered on them."""
