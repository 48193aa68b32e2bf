"""What control planes and workers share through Redis; `control_plane/state/keys.py` lists every key."""
