"""`rlp doctor`: what a run will hold in memory and on disk, reckoned before any weight is loaded."""
