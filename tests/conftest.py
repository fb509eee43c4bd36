"""What all tests share."""

from hypothesis import settings

# A slow machine must not fail a property: nothing is timed in a test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
