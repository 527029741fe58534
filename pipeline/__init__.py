"""Compare spatiotemporal heads for video recognition on cached features of frozen 2D backbones."""
