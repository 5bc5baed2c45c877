"""The peers, in their own environment (peers.txt). Nothing here may import rlp."""
