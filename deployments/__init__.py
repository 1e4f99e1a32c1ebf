"""How eraflow runs unattended: the deployments and the user's configuration."""
