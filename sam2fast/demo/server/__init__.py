"""The web demo's server: a gallery, uploads and tracking sessions over HTTP. See docs/serve.md."""
