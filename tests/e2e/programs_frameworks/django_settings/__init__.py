"""One project, whose settings name the transport in each of the ways that Django users know."""
