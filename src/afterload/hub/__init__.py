"""Where viewers are held and written to; see `afterload.hub.hub`."""
