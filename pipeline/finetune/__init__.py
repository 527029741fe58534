"""Train backbone and head end to end."""
