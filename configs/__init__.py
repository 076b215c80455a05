"""Model configurations, read by :func:`sam2fast.config.load_config`; a package so that wheels carry the YAML files."""
