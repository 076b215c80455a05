"""The web demo as a page whose model runs in the browser, without a server."""
