"""System checks: weights present and intact, the device there."""
