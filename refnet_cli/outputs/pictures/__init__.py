"""Pictures of the map: a preview and an HTML report."""
