"""The other side: django-otp as people deploy it. `server` runs in our environment, everything else in the venv's."""
