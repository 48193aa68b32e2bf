"""Random load on an engine for a long time: nothing may leak, get lost, come twice, or change."""
