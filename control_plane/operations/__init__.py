"""What operators call, and what it shows: the fleet, the policies, and why requests went where they went."""
