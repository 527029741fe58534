"""The `pipeline store` commands: info, verify, export, import."""
