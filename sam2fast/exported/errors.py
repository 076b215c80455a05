"""What is raised for artefacts."""


class ArtifactError(RuntimeError):
    """Files of an exported or compiled model that cannot be used here."""
